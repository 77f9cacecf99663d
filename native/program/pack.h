// Repacks weights for the integer kernels; kernels/layout.h says how.
#pragma once

#include "kernels/kernels.h"
#include "program/team.h"

namespace plait {

// Whether the weight's format has a repacked form.
bool can_pack(const Matrix& weight);

inline std::int64_t packed_tiles(const Matrix& weight) { return (weight.rows + kPackedColumns - 1) / kPackedColumns; }

// The number of the layout: to be raised when the bytes of a repacked weight change, so that none that was kept in a
// file is taken for the new kind.
constexpr int kPackedVersion = 2;

inline std::size_t packed_size(const Matrix& weight) {
    return static_cast<std::size_t>(packed_tiles(weight)) * packed_tile_bytes(weight.format, weight.columns);
}

// Writes the whole weight to `out`, on all threads. With `forget` the weight's bytes are those of a mapped file, and their
// pages are given back piece by piece, so that not both copies are in memory.
void pack(const Matrix& weight, bool forget, Team& team, std::uint8_t* out);

}  // namespace plait
