#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/affinity.h"
#include "program/kept.h"
#include "tests/check.h"

using namespace plait;

namespace {

std::vector<std::uint8_t> some_bytes(std::size_t size) {
    std::vector<std::uint8_t> bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(i * 167 + i / 251);
    return bytes;
}

TEST(sums_tell_every_changed_byte_and_do_not_depend_on_threads) {
    Team one(1), three(3);
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{33}, (std::size_t{1} << 20) + 7}) {
        std::vector<std::uint8_t> bytes = some_bytes(size);
        const std::uint64_t sum = sum_of(bytes, one);
        CHECK(sum_of(bytes, three) == sum);
        for (std::size_t i = 0; i < size; i += 1 + size / 50) {
            bytes[i] ^= 0x80;
            CHECK(sum_of(bytes, three) != sum);
            bytes[i] ^= 0x80;
        }
        bytes.push_back(0);
        CHECK(sum_of(bytes, one) != sum);
    }
}

TEST(kept_bytes_are_read_and_what_is_missing_or_changed_is_refused) {
    Team team(3);
    const std::vector<std::uint8_t> bytes = some_bytes(3'000'000);
    std::FILE* file = std::tmpfile();
    CHECK(file != nullptr);
    CHECK(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
    std::fflush(file);
    const std::vector<std::uint8_t> part(bytes.begin() + 100, bytes.end());
    std::vector<std::uint8_t> out(part.size());
    Kept kept{fileno(file), 100, part.size(), sum_of(part, team)};
    CHECK(read_kept(kept, team, out.data()));
    CHECK(out == part);
    kept.offset = 101;  // the last byte is past the end
    CHECK(!read_kept(kept, team, out.data()));
    kept.offset = 100;
    ++kept.sum;
    CHECK(!read_kept(kept, team, out.data()));
    kept.file = -1;
    CHECK(!read_kept(kept, team, out.data()));
    std::fclose(file);
}

TEST(a_binding_with_cpus_that_are_not_there_is_refused) {
    check_binding({{}, false}, 1000);
    const auto refused = [](const Binding& binding, int threads) {
        try {
            check_binding(binding, threads);
        } catch (const std::invalid_argument&) {
            return true;
        }
        return false;
    };
    CHECK(refused({{1 << 20}, false}, 1));
    CHECK(refused({{-1}, false}, 1));
    CHECK(refused({{}, true}, 1));
}

}  // namespace
