#include "program/team.h"

#include <unistd.h>

namespace plait {
namespace {

constexpr int kSpins = 2000;  // some 30 to 100 microseconds
constexpr int kYields = 8;

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Returns once `value` is no longer `old`.
void wait_for_change(const std::atomic<int>& value, int old) {
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

Team::Team(int threads) : threads_(threads), process_(getpid()) {
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
    if (threads_ > 1) {
        started_.fetch_add(1, std::memory_order_release);
        started_.notify_all();
    }
    Worker self(*this, 0);
    call(job, self);
    barrier();
}

void Team::work(int index) {
    for (int seen = 0;; ++seen) {
        wait_for_change(started_, seen);
        if (stop_) return;
        Worker self(*this, index);
        call_(job_, self);
        barrier();
    }
}

void Team::barrier() {
    if (threads_ == 1) {
        next_.store(0, std::memory_order_relaxed);
        return;
    }
    const int generation = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < threads_) {
        wait_for_change(generation_, generation);
        return;
    }
    // Nobody takes work or arrives again until the generation has changed.
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
}

}  // namespace plait
