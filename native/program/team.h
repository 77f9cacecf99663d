// A team of threads that all run the same function, phase by phase, with a shared counter of work.
//
// The caller is worker 0. A phase is over when its work is done, not when all have arrived: a worker whose thread the
// system does not run holds up nobody, unless it holds a piece of work. It passes the phases that it missed, or, if the
// job ends while it waits, leaves the job without another look at its data. Workers wait by spinning for some
// microseconds, then sleep. Which worker takes which piece of work is left to chance: no result may depend on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "cpu/affinity.h"

#include <sys/types.h>

namespace plait {

class Team;

// One thread's view of its team, for one job.
class Worker {
  public:
    Worker(Team& team, int index, std::uint32_t phase) : team_(&team), index_(index), phase_(phase) {}

    int index() const { return index_; }
    int threads() const;

    // The same worker as a team of one: for what it does inside a piece of work, all by itself.
    Worker alone() const { return Worker(index_); }

    // Calls work(i) once for every 0 <= i < n, spread over the team, and returns when all of it is done. Every worker
    // of the team calls it, with the same n. Outside of work(), a worker may be late: it must not read there what later
    // phases of the job write.
    template <class Work>
    void each(int n, Work work);

  private:
    explicit Worker(int index) : team_(nullptr), index_(index), phase_(0) {}

    Team* team_;  // null: alone
    int index_;
    std::uint32_t phase_;
};

class Team {
  public:
    // Starts threads - 1 threads, on the CPUs of the binding; the caller of `run` is on them for as long as that takes.
    explicit Team(int threads, Binding binding = {});
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    // Runs job(worker) on every thread that comes in time, and returns when all work is done and nobody looks at the
    // job any more. `job` must not throw, and must let through what `each` throws.
    template <class Job>
    void run(const Job& job) {
        start([](void* at, Worker& worker) { (*static_cast<const Job*>(at))(worker); }, const_cast<Job*>(&job));
    }

    int threads() const { return threads_; }

    // False in a process that was forked from the team's: its threads are not there.
    bool here() const;

  private:
    friend class Worker;
    using Call = void (*)(void*, Worker&);
    struct Left {};  // thrown out of a job that ended while its worker waited

    enum class Status : int { Idle, Invited, Working, Waiting, Abandoned };
    struct alignas(64) Seat {
        std::atomic<Status> status{Status::Idle};
        bool swap(Status from, Status to) { return status.compare_exchange_strong(from, to, std::memory_order_acq_rel); }
    };

    void start(Call call, void* job);
    void work(int index);
    void dismiss(Seat& seat);
    // A piece of the phase's work, or -1 when all is taken or the phase is over.
    int take(std::uint32_t phase, int n);
    void finish_piece(std::uint32_t phase, int n);
    void wait_for_end(std::uint32_t phase, int index);

    const int threads_;
    const Binding binding_;
    const pid_t process_;
    Call call_ = nullptr;
    void* job_ = nullptr;
    std::uint32_t first_phase_ = 0;  // of the job
    std::atomic<bool> stop_{false};
    std::unique_ptr<Seat[]> seats_;
    std::vector<std::thread> workers_;
    // A line each, so that taking work does not slow down who waits.
    alignas(64) std::atomic<int> started_{0};
    alignas(64) std::atomic<std::uint64_t> work_{0};  // the phase, and 32 bits below it the next piece
    alignas(64) std::atomic<int> done_{0};            // pieces of the phase
    alignas(64) std::atomic<std::uint32_t> phase_{0};  // the phase again, to wait for
};

inline int Worker::threads() const { return team_ == nullptr ? 1 : team_->threads(); }

inline int Team::take(std::uint32_t phase, int n) {
    std::uint64_t at = work_.load(std::memory_order_acquire);
    while (static_cast<std::uint32_t>(at >> 32) == phase && static_cast<int>(at & 0xffffffffu) < n) {
        if (work_.compare_exchange_weak(at, at + 1, std::memory_order_acquire)) return static_cast<int>(at & 0xffffffffu);
    }
    return -1;
}

template <class Work>
void Worker::each(int n, Work work) {
    if (n <= 0) return;
    if (team_ == nullptr) {
        for (int i = 0; i < n; ++i) work(i);
        return;
    }
    const std::uint32_t phase = phase_++;
    for (int i; (i = team_->take(phase, n)) >= 0;) {
        work(i);
        team_->finish_piece(phase, n);
    }
    team_->wait_for_end(phase, index_);
}

}  // namespace plait
