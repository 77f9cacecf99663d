#include "program/kept.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

namespace plait {
namespace {

constexpr std::size_t kPiece = std::size_t{512} << 10;  // summed while it is in the second-level cache

std::uint64_t mix(std::uint64_t h) {
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    return h ^ h >> 29;
}

// Four chains, so that the multiplications need not wait for each other.
std::uint64_t sum_of_piece(const std::uint8_t* at, std::size_t size, std::uint64_t seed) {
    std::uint64_t chains[4], words[4];
    for (std::size_t c = 0; c < 4; ++c) chains[c] = mix(seed * 4 + c + 1);
    for (std::size_t i = 0; i < size; i += sizeof words) {
        const std::size_t count = std::min(sizeof words, size - i);
        if (count < sizeof words) std::memset(words, 0, sizeof words);
        std::memcpy(words, at + i, count);
        for (std::size_t c = 0; c < 4; ++c) chains[c] = std::rotl((chains[c] ^ words[c]) * 0x9e3779b97f4a7c15u, 29);
    }
    std::uint64_t sum = size;
    for (const std::uint64_t chain : chains) sum = mix(sum ^ chain) + chain;
    return sum;
}

bool read_piece(int file, std::int64_t offset, std::size_t size, std::uint8_t* out) {
    while (size > 0) {
        const ssize_t got = pread(file, out, size, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        out += got;
        offset += got;
        size -= static_cast<std::size_t>(got);
    }
    return true;
}

// Calls work(number, start, size) for every piece of so many bytes, on all threads; returns the sum over what it returns.
template <class Work>
std::uint64_t sum_pieces(std::size_t bytes, Team& team, const Work& work) {
    std::vector<std::uint64_t> sums((bytes + kPiece - 1) / kPiece);
    const auto job = [&](Worker& worker) {
        worker.each(static_cast<int>(sums.size()), [&](int i) {
            const std::size_t number = static_cast<std::size_t>(i), start = number * kPiece;
            sums[number] = work(number, start, std::min(kPiece, bytes - start));
        });
    };
    team.run(job);
    std::uint64_t sum = 0;
    for (const std::uint64_t piece : sums) sum = mix(sum ^ piece);
    return sum;
}

}  // namespace

std::uint64_t sum_of(std::span<const std::uint8_t> bytes, Team& team) {
    return sum_pieces(bytes.size(), team, [&](std::size_t number, std::size_t start, std::size_t size) {
        return sum_of_piece(bytes.data() + start, size, number);
    });
}

bool read_kept(const Kept& kept, Team& team, std::uint8_t* out) {
    std::atomic<bool> whole = true;
    const std::uint64_t sum = sum_pieces(kept.bytes, team, [&](std::size_t number, std::size_t start, std::size_t size) {
        const std::int64_t offset = kept.offset + static_cast<std::int64_t>(start);
        if (!read_piece(kept.file, offset, size, out + start)) whole = false;
        return sum_of_piece(out + start, size, number);
    });
    return whole && sum == kept.sum;
}

}  // namespace plait
