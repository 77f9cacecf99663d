// A team of threads that all run the same function, with cheap barriers and a shared counter of work.
//
// The caller is worker 0. Workers wait by spinning for some microseconds, then sleep. Which worker takes which piece of
// work is left to chance: no result may depend on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include <sys/types.h>

namespace plait {

class Team;

// One thread's view of its team.
class Worker {
  public:
    Worker(Team& team, int index) : team_(team), index_(index) {}

    int index() const { return index_; }
    int threads() const;

    // Calls work(i) once for every 0 <= i < n, spread over the team, and returns when all of it is done. Every worker
    // of the team calls it, with the same n.
    template <class Work>
    void each(int n, Work work);

  private:
    Team& team_;
    int index_;
};

class Team {
  public:
    // Starts threads - 1 threads.
    explicit Team(int threads);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    // Runs job(worker) on every thread and returns when all have returned. `job` must not throw.
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

    void start(Call call, void* job);
    void work(int index);
    int next() { return next_.fetch_add(1, std::memory_order_relaxed); }
    void barrier();

    const int threads_;
    const pid_t process_;
    Call call_ = nullptr;
    void* job_ = nullptr;
    bool stop_ = false;
    std::vector<std::thread> workers_;
    // A line each, so that taking work does not slow down who waits.
    alignas(64) std::atomic<int> started_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> generation_{0};
    alignas(64) std::atomic<int> next_{0};
};

inline int Worker::threads() const { return team_.threads(); }

template <class Work>
void Worker::each(int n, Work work) {
    for (int i = team_.next(); i < n; i = team_.next()) work(i);
    team_.barrier();
}

}  // namespace plait
