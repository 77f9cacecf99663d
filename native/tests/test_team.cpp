#include <atomic>
#include <chrono>
#include <numeric>

#include "program/team.h"
#include "tests/check.h"

using namespace plait;

namespace {

TEST(every_piece_of_work_is_done_once_and_before_the_next_phase) {
    for (const int threads : {1, 2, 3, 4}) {
        Team team(threads);
        std::vector<std::atomic<int>> done(100);
        std::atomic<bool> early = false;
        for (int run = 0; run < 50; ++run) {
            for (auto& count : done) count = 0;
            const auto job = [&](Worker& worker) {
                for (int phase = 1; phase <= 20; ++phase) {
                    worker.each(100, [&](int i) { ++done[static_cast<std::size_t>(i)]; });
                    // All of the phase before is done, and nobody is further than the next one.
                    worker.each(100, [&](int i) {
                        if (done[static_cast<std::size_t>(99 - i)] != phase) early = true;
                    });
                }
            };
            team.run(job);
            for (auto& count : done) CHECK(count == 20);
        }
        CHECK(!early);
    }
}

TEST(workers_that_sleep_wake_up) {
    Team team(3);
    for (int run = 0; run < 3; ++run) {
        std::atomic<int> count = 0;
        const auto job = [&](Worker& worker) {
            worker.each(3, [&](int i) {
                if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
                ++count;
            });
            worker.each(7, [&](int) { ++count; });
        };
        team.run(job);
        CHECK(count == 10);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

TEST(more_threads_than_processors_do_all_work_once) {
    // Some come late, some are left behind waiting; the next job must find them again, and nothing may be done twice.
    Team team(12);
    for (int run = 0; run < 300; ++run) {
        std::vector<int> written(40, 0);  // by pieces of one phase, read by those of the next
        std::atomic<int> wrong = 0, count = 0;
        const auto job = [&](Worker& worker) {
            for (int phase = 0; phase < 6; ++phase) {
                worker.each(40, [&](int i) {
                    if (written[static_cast<std::size_t>(i)]++ != phase) ++wrong;
                    ++count;
                });
                worker.each(1, [&](int) {
                    for (const int value : written) wrong += value != phase + 1;
                });
            }
        };
        team.run(job);
        CHECK(wrong == 0 && count == 240);
        if (run % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
}

TEST(phases_without_work_pass) {
    Team team(2);
    std::atomic<int> count = 0;
    const auto job = [&](Worker& worker) {
        worker.each(0, [&](int) { ++count; });
        worker.each(1, [&](int) { ++count; });
    };
    team.run(job);
    CHECK(count == 1);
}

}  // namespace
