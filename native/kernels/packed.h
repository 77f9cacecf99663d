// Matrix products in integers: repacked weights (kernels/layout.h) with rows quantised to 8 bits. Within the inputs that
// share a scale the sum is exact; those sums become float32, are scaled, and are added in ascending order of the inputs,
// one lane for each output. So neither the path nor the number of rows can change a bit.
#pragma once

#include <type_traits>

#include "kernels/packed_256.h"
#include "kernels/packed_32.h"
#include "kernels/packed_levels.h"
#include "kernels/quantise.h"

namespace plait::PLAIT_PATH {
namespace {

template <class P, int ROWS>
inline void tile_rows(const PanelBlock* x, const std::uint8_t* tile, int blocks, Ahead ahead, float* out) {
    using Pass = std::conditional_t<P::bytes.head == 0, Pass32<P, ROWS>, Pass256<P, ROWS>>;
    for (int pass = 0; pass < kPackedColumns / (tile_vectors(ROWS) * kWidth); ++pass) {
        Pass::run(x, tile, blocks, pass, pass == 0 ? ahead : Ahead{}, out);
    }
}

template <class P>
inline void tile_rows(int rows, const PanelBlock* x, const std::uint8_t* tile, int blocks, Ahead ahead, float* out) {
    switch (rows) {
        case 1: return tile_rows<P, 1>(x, tile, blocks, ahead, out);
        case 2: return tile_rows<P, 2>(x, tile, blocks, ahead, out);
        case 3: return tile_rows<P, 3>(x, tile, blocks, ahead, out);
        case 4: return tile_rows<P, 4>(x, tile, blocks, ahead, out);
        case 5: return tile_rows<P, 5>(x, tile, blocks, ahead, out);
        default: return tile_rows<P, 6>(x, tile, blocks, ahead, out);
    }
}

inline void tile_rows(Format format, int rows, const PanelBlock* x, const std::uint8_t* tile, int blocks, Ahead ahead, float* out) {
    switch (format) {
        case Format::Q8_0: return tile_rows<PackedQ8_0>(rows, x, tile, blocks, ahead, out);
        case Format::Q4_0: return tile_rows<PackedQ4_0>(rows, x, tile, blocks, ahead, out);
        case Format::Q4_1: return tile_rows<PackedQ4_1>(rows, x, tile, blocks, ahead, out);
        case Format::Q5_0: return tile_rows<PackedQ5_0>(rows, x, tile, blocks, ahead, out);
        case Format::Q5_1: return tile_rows<PackedQ5_1>(rows, x, tile, blocks, ahead, out);
        case Format::IQ4_NL: return tile_rows<PackedIQ4_NL>(rows, x, tile, blocks, ahead, out);
        case Format::IQ4_XS: return tile_rows<PackedIQ4_XS>(rows, x, tile, blocks, ahead, out);
        case Format::Q4_K: return tile_rows<PackedQ4_K>(rows, x, tile, blocks, ahead, out);
        case Format::Q5_K: return tile_rows<PackedQ5_K>(rows, x, tile, blocks, ahead, out);
        case Format::TQ1_0:
        case Format::TQ2_0:
        case Format::Q2_K: return tile_rows<PackedQ2_K>(rows, x, tile, blocks, ahead, out);
        case Format::Q3_K: return tile_rows<PackedQ3_K>(rows, x, tile, blocks, ahead, out);
        case Format::Q6_K: return tile_rows<PackedQ6_K>(rows, x, tile, blocks, ahead, out);
        case Format::IQ1_S:
        case Format::IQ2_XXS: return tile_rows<PackedIQ12>(rows, x, tile, blocks, ahead, out);
        case Format::IQ1_M:
        case Format::IQ2_XS:
        case Format::IQ2_S: return tile_rows<PackedIQ12Halves>(rows, x, tile, blocks, ahead, out);
        case Format::IQ3_XXS: return tile_rows<PackedIQ3_XXS>(rows, x, tile, blocks, ahead, out);
        case Format::IQ3_S: return tile_rows<PackedIQ3_S>(rows, x, tile, blocks, ahead, out);
        case Format::MXFP4: return tile_rows<PackedMXFP4>(rows, x, tile, blocks, ahead, out);
        default: return;  // nothing else is repacked
    }
}

// Columns c.. of the tile's sums to the rows of one group.
inline void write_sums(const PackedArgs& a, const float* sums, int start, int rows, std::int64_t c) {
    const int n = a.last - c < kPackedColumns ? static_cast<int>(a.last - c) : kPackedColumns;
    float* out = a.out + static_cast<std::size_t>(start) * a.out_stride + (c - a.out_first);
    for (int r = 0; r < rows; ++r, out += a.out_stride, sums += kPackedColumns) {
        if (a.bias == nullptr) {
            __builtin_memcpy(out, sums, static_cast<std::size_t>(n) * sizeof(float));
        } else {
            for (int i = 0; i < n; ++i) out[i] = sums[i] + a.bias[c + i];
        }
    }
}

// One group of rows goes once over the weights: they are fetched some way ahead, and from further away too where memory
// has the time. (Where it has not, further requests only stand in the way.) With more groups, each fetches its share of
// the next tile, so that memory is busy all the time; to the second level, for the first would lose it again.
inline Ahead ahead_of(const PackedArgs& a, const std::uint8_t* tile, std::size_t tile_bytes, std::int64_t c, int g) {
    const int blocks = a.weight.columns / kPackedInputs, groups = a.last_group - a.first_group;
    const int block_bytes = static_cast<int>(tile_bytes) / blocks, lines = (block_bytes + 63) / 64;
    const bool last = c + kPackedColumns >= a.last;
    if (groups == 1) {
        const int rows = group_start(a.rows, g + 1) - group_start(a.rows, g);
        // Of a next tile that lies elsewhere, enough to begin with.
        return {lines, block_bytes <= rows * kBytesInTime ? lines : 0, a.next, last && a.next != nullptr ? 1 : 0};
    }
    const std::uint8_t* next = last ? a.next : tile + tile_bytes;
    if (next == nullptr) return {};
    const int share = (lines + groups - 1) / groups, skipped = share * blocks * (g - a.first_group);
    return {0, 0, next + 64 * static_cast<std::size_t>(skipped), share};
}

inline void linear_packed(const PackedArgs& a) {
    const int blocks = a.weight.columns / kPackedInputs, first_row = group_start(a.rows, a.first_group);
    const std::size_t tile_bytes = packed_tile_bytes(a.weight.format, a.weight.columns);
    alignas(64) float sums[kPanelRows * kPackedColumns];
    for (std::int64_t c = a.first; c < a.last; c += kPackedColumns) {
        const std::uint8_t* tile = a.weight.packed + static_cast<std::size_t>(c / kPackedColumns) * tile_bytes;
        for (int g = a.first_group; g < a.last_group; ++g) {
            const int start = group_start(a.rows, g), rows = group_start(a.rows, g + 1) - start;
            const PanelBlock* x = a.x + static_cast<std::size_t>(start) * static_cast<std::size_t>(blocks);
            tile_rows(a.weight.format, rows, x, tile, blocks, ahead_of(a, tile, tile_bytes, c, g), sums);
            write_sums(a, sums, start - first_row, rows, c);
        }
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
