// Repacked weights that a file keeps for the next start: read into memory, and checked, on all threads.
#pragma once

#include <cstdint>
#include <span>

#include "program/team.h"

namespace plait {

// Bytes of an open file, and the sum that they had when they were written.
struct Kept {
    int file = -1;
    std::int64_t offset = 0;
    std::size_t bytes = 0;
    std::uint64_t sum = 0;
};

// A sum over bytes that a damaged or exchanged byte changes, as good as surely. Not for enemies.
std::uint64_t sum_of(std::span<const std::uint8_t> bytes, Team& team);

// Reads to `out`; false where the file is too short, cannot be read, or holds something else.
bool read_kept(const Kept& kept, Team& team, std::uint8_t* out);

}  // namespace plait
