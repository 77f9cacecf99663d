// Matrix products in integers: repacked weights (kernels/layout.h) with rows quantised to 8 bits. Within 32 inputs the
// sum is exact; those sums become float32, are scaled, and are added in ascending order of the inputs, one lane for
// each output. So neither the path nor the number of rows can change a bit.
#pragma once

#include "kernels/linear.h"
#include "kernels/packed_formats.h"

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
    std::int32_t sums[2];
    for (int half = 0; half < 2; ++half) {
        std::int32_t sum = 0;
        for (int i = half * 16; i < half * 16 + 16; ++i) {
            const float shifted = x[i] * inverse + 12582912.0f;  // 1.5 * 2^23: leaves the number in the lowest bits
            const std::int8_t q = static_cast<std::int8_t>(bits_of(shifted) & 0xffu);
            out->q[i] = q;
            sum += q;
        }
        sums[half] = sum;
        out->less_32[half] = -32 * sum;
    }
    const std::int32_t sum = sums[0] + sums[1];
    out->scale = zero ? 0.0f : largest / 127.0f;
    out->sum = out->scale * static_cast<float>(sum);
    for (int half = 0; half < 2; ++half) out->half_sums[half] = out->scale * static_cast<float>(sums[half]);
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

// Vectors of columns in a register tile of that many rows: one broadcast of activations serves them all, where registers
// suffice. Vectors of 4 need four for one row, or sums wait for each other; from five rows on that many spill.
constexpr int tile_vectors(int rows) { return !kManyRegisters ? 1 : kWidth == 16 || rows > 4 ? 2 : 4; }
constexpr int kNear = 2048, kFar = 8192;  // bytes
// Bytes of weights per row, in 32 inputs, that come while the rows are multiplied: with more, memory is what holds up.
constexpr int kBytesInTime = 150;

// What a pass over a tile fetches with each block, in cache lines: of the tile itself, kNear on into the first-level
// cache and kFar on into the second; and from `next` on, into the second.
struct Ahead {
    int near, far;
    const std::uint8_t* next;
    int next_lines;
};

inline void fetch(const std::uint8_t* tile, Ahead& ahead) {
    for (int line = 0; line < ahead.near; ++line) __builtin_prefetch(tile + kNear + 64 * line, 0, 3);
    for (int line = 0; line < ahead.far; ++line) __builtin_prefetch(tile + kFar + 64 * line, 0, 2);
    for (int line = 0; line < ahead.next_lines; ++line, ahead.next += 64) __builtin_prefetch(ahead.next, 0, 2);
}

// Sums of one part of 32 inputs, column...: exact.
template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void sum_part(const PanelBlock* x, const std::uint8_t* at, int column, int part,
                                            I (&sum)[ROWS][VECTORS]) {
    constexpr int quads = 8 / P::parts;
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = spread(P::start(x[r], part));
    }
#pragma GCC unroll 8
    for (int i = 0; i < quads; ++i) {
        const int quad = part * quads + i;
        for (int v = 0; v < VECTORS; ++v) {
            const typename P::Weights w(P::read(at, column + v * kWidth, quad));
            for (int r = 0; r < ROWS; ++r) sum[r][v] = dot_quad(sum[r][v], w, x[r].q, quad);
        }
    }
}

// Two parts' sums, each times its scale: below 2^24, so still exact when they become float32.
template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void sum_parts(const PanelBlock* x, const std::uint8_t* at, int column,
                                             I (&sum)[ROWS][VECTORS]) {
    I second[ROWS][VECTORS];
    sum_part<P>(x, at, column, 0, sum);
    for (int v = 0; v < VECTORS; ++v) {
        const I scale = P::part_scale(at, column + v * kWidth, 0);
        for (int r = 0; r < ROWS; ++r) sum[r][v] *= scale;
    }
    sum_part<P>(x, at, column, 1, second);
    for (int v = 0; v < VECTORS; ++v) {
        const I scale = P::part_scale(at, column + v * kWidth, 1);
        for (int r = 0; r < ROWS; ++r) sum[r][v] += second[r][v] * scale;
    }
}

template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void take_minimums(const PanelBlock* x, const std::uint8_t* head, const std::uint8_t* at,
                                                 int column, V (&total)[ROWS][VECTORS]) {
    for (int i = 0; i < P::minimums; ++i) {
        for (int v = 0; v < VECTORS; ++v) {
            const V minimum = P::minimum(head, at, column + v * kWidth, i);
            for (int r = 0; r < ROWS; ++r) {
                total[r][v] -= minimum * (P::minimums == 1 ? x[r].sum : x[r].half_sums[i]);
            }
        }
    }
}

// Adds the products of 32 inputs, column..., to the totals.
template <class P, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void add_block(const PanelBlock* x, const std::uint8_t* head, const std::uint8_t* at,
                                             int column, V (&total)[ROWS][VECTORS]) {
    I sum[ROWS][VECTORS];
    if constexpr (P::parts == 2) {
        sum_parts<P>(x, at, column, sum);
    } else {
        sum_part<P>(x, at, column, 0, sum);
    }
    for (int v = 0; v < VECTORS; ++v) {
        const V scale = P::scale(head, at, column + v * kWidth);
        for (int r = 0; r < ROWS; ++r) total[r][v] += to_float(sum[r][v]) * (scale * x[r].scale);
    }
    if constexpr (P::minimums > 0) take_minimums<P>(x, head, at, column, total);
}

// out[r * kPackedColumns + c] = the product of panel row r with column c of the tile, for one pass of columns.
template <class P, int ROWS>
inline void tile_pass(const PanelBlock* x, const std::uint8_t* tile, int blocks, int pass, Ahead ahead, float* out) {
    constexpr int VECTORS = tile_vectors(ROWS);
    const int column = pass * VECTORS * kWidth;
    const std::uint8_t* head = tile;
    V total[ROWS][VECTORS] = {};
    for (int b = 0; b < blocks; ++b, x += ROWS, tile += P::bytes.weights + P::bytes.scales) {
        if (P::bytes.head != 0 && b % 8 == 0) {
            head = tile;
            tile += P::bytes.head;
        }
        fetch(tile, ahead);
        add_block<P>(x, head, tile, column, total);
    }
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < VECTORS; ++v) store(out + r * kPackedColumns + column + v * kWidth, total[r][v]);
    }
}

template <class P, int ROWS>
inline void tile_rows(const PanelBlock* x, const std::uint8_t* tile, int blocks, Ahead ahead, float* out) {
    for (int pass = 0; pass < kPackedColumns / (tile_vectors(ROWS) * kWidth); ++pass) {
        tile_pass<P, ROWS>(x, tile, blocks, pass, pass == 0 ? ahead : Ahead{}, out);
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
        case Format::Q2_K: return tile_rows<PackedQ2_K>(rows, x, tile, blocks, ahead, out);
        case Format::Q3_K: return tile_rows<PackedQ3_K>(rows, x, tile, blocks, ahead, out);
        case Format::Q6_K: return tile_rows<PackedQ6_K>(rows, x, tile, blocks, ahead, out);
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
// the task's next tile, so that memory is busy all the time; to the second level, for the first would lose it again.
inline Ahead ahead_of(const PackedArgs& a, const std::uint8_t* tile, std::size_t tile_bytes, std::int64_t c, int g) {
    const int blocks = a.weight.columns / kPackedInputs, groups = a.last_group - a.first_group;
    const int block_bytes = static_cast<int>(tile_bytes) / blocks, lines = (block_bytes + 63) / 64;
    if (groups == 1) {
        const int rows = group_start(a.rows, g + 1) - group_start(a.rows, g);
        return {lines, block_bytes <= rows * kBytesInTime ? lines : 0, nullptr, 0};
    }
    if (c + kPackedColumns >= a.last) return {};
    const int share = (lines + groups - 1) / groups, skipped = share * blocks * (g - a.first_group);
    return {0, 0, tile + tile_bytes + 64 * static_cast<std::size_t>(skipped), share};
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
