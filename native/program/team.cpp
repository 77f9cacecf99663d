#include "program/team.h"

#include <unistd.h>

#include <chrono>

namespace plait {
namespace {

constexpr int kSpins = 2000;  // some 30 to 100 microseconds
constexpr int kYields = 8;
constexpr int kPatience = 200;  // spins until a worker that still waits is left behind

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Returns once `value` is no longer `old`.
template <class T>
void wait_for_change(const std::atomic<T>& value, T old) {
    for (int i = 0; i < kSpins; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    for (int i = 0; i < kYields; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        std::this_thread::yield();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

Team::Team(int threads, Binding binding)
    : threads_(threads),
      binding_(std::move(binding)),
      process_(getpid()),
      seats_(std::make_unique<Seat[]>(static_cast<std::size_t>(threads))) {
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

Team::~Team() {
    stop_ = true;
    started_.fetch_add(1, std::memory_order_release);
    started_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

bool Team::here() const { return process_ == getpid(); }

void Team::start(Call call, void* job) {
    call_ = call;
    job_ = job;
    first_phase_ = phase_.load(std::memory_order_relaxed);
    for (int i = 1; i < threads_; ++i) seats_[static_cast<std::size_t>(i)].swap(Status::Idle, Status::Invited);
    if (threads_ > 1) {
        started_.fetch_add(1, std::memory_order_release);
        started_.notify_all();
    }
    const BoundHere bound(binding_, 0);
    Worker self(*this, 0, first_phase_);
    call(job, self);
    for (int i = 1; i < threads_; ++i) dismiss(seats_[static_cast<std::size_t>(i)]);
}

// Sees to it that the seat's worker is out of the job, or will leave it without looking at it.
void Team::dismiss(Seat& seat) {
    if (seat.swap(Status::Invited, Status::Idle)) return;
    for (int i = 0;; ++i) {
        const Status status = seat.status.load(std::memory_order_acquire);
        if (status == Status::Idle || status == Status::Abandoned) return;
        if (i >= kPatience && seat.swap(Status::Waiting, Status::Abandoned)) return;
        if (i < kSpins) {
            pause();
        } else {
            std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
    }
}

void Team::work(int index) {
    Seat& seat = seats_[static_cast<std::size_t>(index)];
    const BoundHere bound(binding_, index);
    for (int seen = 0;;) {
        wait_for_change(started_, seen);
        seen = started_.load(std::memory_order_acquire);
        if (stop_) return;
        if (!seat.swap(Status::Invited, Status::Working)) continue;
        try {
            Worker self(*this, index, first_phase_);
            call_(job_, self);
        } catch (const Left&) {
        }
        seat.status.store(Status::Idle, std::memory_order_release);
    }
}

void Team::finish_piece(std::uint32_t phase, int n) {
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 < n) return;
    // Nobody finishes a piece again until the next phase has begun.
    done_.store(0, std::memory_order_relaxed);
    work_.store(std::uint64_t{phase + 1} << 32, std::memory_order_release);
    phase_.store(phase + 1, std::memory_order_release);
    if (threads_ > 1) phase_.notify_all();
}

void Team::wait_for_end(std::uint32_t phase, int index) {
    // Somebody may be between the two stores that end a phase; then phase_ is behind, but never ahead.
    const auto over = [&] { return static_cast<std::int32_t>(phase_.load(std::memory_order_acquire) - phase) > 0; };
    if (over()) return;
    Seat& seat = seats_[static_cast<std::size_t>(index)];
    seat.status.store(Status::Waiting, std::memory_order_release);
    wait_for_change(phase_, phase);
    if (index > 0 && !seat.swap(Status::Waiting, Status::Working)) throw Left();
}

}  // namespace plait
