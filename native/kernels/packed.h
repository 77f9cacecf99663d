// Matrix products in integers: repacked weights (kernels/layout.h) with rows quantised to 8 bits. Within 32 inputs the
// sum is exact; those sums become float32, are scaled, and are added in ascending order of the inputs, one lane for
// each output. So neither the path nor the number of rows can change a bit.
#pragma once

#include "kernels/linear.h"
#include "simd/bytes.h"

namespace plait::PLAIT_PATH {
namespace {

// scale = max |x| / 127, q = x / scale rounded to nearest even. The largest magnitude is found among the bit patterns,
// where NaN is above all, so that it reaches the scale.
inline void quantise_block(const float* __restrict x, PanelBlock* __restrict out) {
    std::uint32_t most = 0;
    for (int i = 0; i < kPackedInputs; ++i) {
        const std::uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
        most = magnitude > most ? magnitude : most;
    }
    const float largest = float_of(most);
    const bool zero = largest < 1e-30f;  // 127 / largest would be infinite for smaller ones
    const float inverse = zero ? 0.0f : 127.0f / largest;
    std::int32_t sum = 0;
    for (int i = 0; i < kPackedInputs; ++i) {
        const float shifted = x[i] * inverse + 12582912.0f;  // 1.5 * 2^23: leaves the rounded number in the lowest bits
        const std::int8_t q = static_cast<std::int8_t>(bits_of(shifted) & 0xffu);
        out->q[i] = q;
        sum += q;
    }
    out->scale = zero ? 0.0f : largest / 127.0f;
    out->less_8 = -8 * sum;
    out->less_128 = -128 * sum;
}

inline void quantise(const QuantiseArgs& a) {
    const int blocks = a.columns / kPackedInputs, first_row = group_start(a.rows, a.first_group);
    for (int g = a.first_group; g < a.last_group; ++g) {
        const int start = group_start(a.rows, g), rows = group_start(a.rows, g + 1) - start;
        PanelBlock* panel = a.out + static_cast<std::size_t>(start) * static_cast<std::size_t>(blocks);
        for (int r = 0; r < rows; ++r) {
            const float* in = input_row(a.x, start - first_row + r);
            for (int b = a.first / kPackedInputs; b < a.last / kPackedInputs; ++b, in += kPackedInputs) {
                quantise_block(in, panel + b * rows + r);
            }
        }
    }
}

// How a packed format is read: four inputs of one vector of columns at a time.
struct PackedQ8 {
    using Weights = ByteWeights;
    static constexpr int bytes = 32 * kPackedColumns;
    static std::int32_t start(const PanelBlock& x) { return ByteWeights::corrected ? x.less_128 : 0; }
    static U read(const std::uint8_t* at, int quad) { return load_lanes(at + quad * 4 * kPackedColumns); }
};

struct PackedQ4 {
    using Weights = NibbleWeights;
    static constexpr int bytes = 16 * kPackedColumns;
    static std::int32_t start(const PanelBlock& x) { return x.less_8; }
    static U read(const std::uint8_t* at, int quad) {
        const U both = load_lanes(at + quad % 4 * 4 * kPackedColumns);
        return (quad < 4 ? both : both >> 4) & 0x0f0f0f0fu;
    }
};

// Vectors of columns in a register tile: one broadcast of activations serves them all, where registers suffice.
constexpr int kTileVectors = kWidth == 16 ? 2 : 1;
constexpr int kPrefetch = 2048;  // bytes

// What a pass over a tile fetches meanwhile: from `at` on, so many lines with each block.
struct Ahead {
    const std::uint8_t* at;
    int lines;
};

// out[r * kPackedColumns + c] = the product of panel row r with column c of the tile, for one pass of columns.
template <class Packed, int ROWS>
inline void tile_pass(const PanelBlock* x, const std::uint8_t* tile, int blocks, int pass, Ahead ahead, float* out) {
    constexpr int block_bytes = Packed::bytes + 2 * kPackedColumns;
    const int column = pass * kTileVectors * kWidth;
    V total[ROWS][kTileVectors] = {};
    for (int b = 0; b < blocks; ++b, x += ROWS, tile += block_bytes) {
        I sum[ROWS][kTileVectors];
        for (int r = 0; r < ROWS; ++r) {
            for (int v = 0; v < kTileVectors; ++v) sum[r][v] = spread(Packed::start(x[r]));
        }
        for (int line = 0; line < ahead.lines; ++line, ahead.at += 64) __builtin_prefetch(ahead.at);
#pragma GCC unroll 8
        for (int quad = 0; quad < 8; ++quad) {
            for (int v = 0; v < kTileVectors; ++v) {
                const typename Packed::Weights w(Packed::read(tile + 4 * (column + v * kWidth), quad));
                for (int r = 0; r < ROWS; ++r) {
                    std::int32_t four;
                    __builtin_memcpy(&four, x[r].q + 4 * quad, sizeof four);
                    sum[r][v] = dot(sum[r][v], w, spread(four));
                }
            }
        }
        for (int v = 0; v < kTileVectors; ++v) {
            const V scale = load_halves(tile + Packed::bytes + 2 * (column + v * kWidth));
            for (int r = 0; r < ROWS; ++r) total[r][v] += to_float(sum[r][v]) * (scale * x[r].scale);
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < kTileVectors; ++v) store(out + r * kPackedColumns + column + v * kWidth, total[r][v]);
    }
}

template <class Packed, int ROWS>
inline void tile_rows(const PanelBlock* x, const std::uint8_t* tile, int blocks, Ahead ahead, float* out) {
    for (int pass = 0; pass < kPackedColumns / (kTileVectors * kWidth); ++pass) {
        tile_pass<Packed, ROWS>(x, tile, blocks, pass, pass == 0 ? ahead : Ahead{}, out);
    }
}

template <class Packed>
inline void tile_rows(int rows, const PanelBlock* x, const std::uint8_t* tile, int blocks, Ahead ahead, float* out) {
    switch (rows) {
        case 1: return tile_rows<Packed, 1>(x, tile, blocks, ahead, out);
        case 2: return tile_rows<Packed, 2>(x, tile, blocks, ahead, out);
        case 3: return tile_rows<Packed, 3>(x, tile, blocks, ahead, out);
        case 4: return tile_rows<Packed, 4>(x, tile, blocks, ahead, out);
        case 5: return tile_rows<Packed, 5>(x, tile, blocks, ahead, out);
        default: return tile_rows<Packed, 6>(x, tile, blocks, ahead, out);
    }
}

inline void tile_rows(Format format, int rows, const PanelBlock* x, const std::uint8_t* tile, int blocks, Ahead ahead, float* out) {
    if (format == Format::Q8_0) return tile_rows<PackedQ8>(rows, x, tile, blocks, ahead, out);
    return tile_rows<PackedQ4>(rows, x, tile, blocks, ahead, out);
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

// One group of rows takes no longer than the weights take to come: it fetches them some way ahead. With more groups,
// each fetches its share of the task's next tile, so that memory is busy all the time.
inline Ahead ahead_of(const PackedArgs& a, const std::uint8_t* tile, std::size_t tile_bytes, std::int64_t c, int g) {
    const int blocks = a.weight.columns / kPackedInputs, groups = a.last_group - a.first_group;
    const int lines = static_cast<int>(tile_bytes) / blocks / 64;
    if (groups == 1) return {tile + kPrefetch, lines};
    if (c + kPackedColumns >= a.last) return {};
    const int share = (lines + groups - 1) / groups, skipped = share * blocks * (g - a.first_group);
    return {tile + tile_bytes + 64 * static_cast<std::size_t>(skipped), share};
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
