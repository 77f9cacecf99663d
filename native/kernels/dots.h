// Dot products of many rows with many columns: register tiles over the one order of summing (simd/vector.h). A tile's
// shape never changes a bit of its results, for each (row, column) has lanes of its own.
#pragma once

#include "kernels/layout.h"
#include "simd/bytes.h"

namespace plait::PLAIT_PATH {
namespace {

// A weight's column as it lies in memory, in F32, F16 or BF16.
template <Format FORMAT>
struct Column {
    static constexpr int bytes = FORMAT == Format::F32 ? 4 : 2;
    const std::uint8_t* at;
    std::ptrdiff_t ahead;  // bytes from here to what will be read after this tile; 0: it is in the cache

    V vector(int i) const {
        if (ahead != 0) __builtin_prefetch(at + bytes * i + ahead, 0, 2);
        if constexpr (FORMAT == Format::F16) return load_halves(at + bytes * i);
        if constexpr (FORMAT == Format::BF16) return load_bfloats(at + bytes * i);
        V v;
        __builtin_memcpy(&v, at + bytes * i, sizeof v);
        return v;
    }
    float one(int i) const {
        if constexpr (FORMAT == Format::F16) return f16_to_f32(read_u16(at + bytes * i));
        if constexpr (FORMAT == Format::BF16) return bf16_to_f32(read_u16(at + bytes * i));
        float x;
        __builtin_memcpy(&x, at + bytes * i, sizeof x);
        return x;
    }
};

// The terms past the last whole group of 16 go to lanes 0, 1, ...
template <int ROWS, int COLUMNS, Format FORMAT>
inline void add_tails(const float* const* x, const Column<FORMAT>* w, int k, float* lanes) {
    const int whole = k & ~(kLanes - 1);
    for (int r = 0; r < ROWS; ++r) {
        for (int c = 0; c < COLUMNS; ++c) {
            float* at = lanes + (r * COLUMNS + c) * kLanes;
            for (int i = whole; i < k; ++i) at[i - whole] += x[r][i] * w[c].one(i);
        }
    }
}

// sums[r * COLUMNS + c] = x[r] . w[c], over k.
template <int ROWS, int COLUMNS, Format FORMAT>
inline void dot_block(const float* const* x, const Column<FORMAT>* w, int k, float* sums) {
    alignas(64) float lanes[ROWS * COLUMNS * kLanes];
    const int whole = k & ~(kLanes - 1);
    for (int group = 0; group < kLanes; group += kWidth) {
        V sum[ROWS][COLUMNS] = {};
        for (int i = group; i < whole; i += kLanes) {
            V column[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) column[c] = w[c].vector(i);
            for (int r = 0; r < ROWS; ++r) {
                const V row = load(x[r] + i);
                for (int c = 0; c < COLUMNS; ++c) sum[r][c] += row * column[c];
            }
        }
        for (int r = 0; r < ROWS; ++r) {
            for (int c = 0; c < COLUMNS; ++c) store(lanes + (r * COLUMNS + c) * kLanes + group, sum[r][c]);
        }
    }
    if (whole < k) add_tails<ROWS, COLUMNS>(x, w, k, lanes);
    if constexpr (COLUMNS == 4) {
        for (int r = 0; r < ROWS; ++r) {
            const V4 four = sum_lanes4(lanes + r * COLUMNS * kLanes);
            __builtin_memcpy(sums + r * COLUMNS, &four, sizeof four);
        }
    } else {
        for (int i = 0; i < ROWS * COLUMNS; ++i) sums[i] = sum_lanes(lanes + i * kLanes);
    }
}

// Columns in a register tile of that many rows: 16 accumulators where there are 32 registers, else 8.
constexpr int tile_columns(int rows) { return kManyRegisters || rows <= 2 ? 4 : 2; }

template <int ROWS, Format FORMAT>
inline void dot_rows(const float* const* x, const Column<FORMAT>* w, int columns, int k, float* out,
                     std::size_t stride) {
    constexpr int TILE = tile_columns(ROWS);
    int c = 0;
    for (; c + TILE <= columns; c += TILE) {
        float sums[ROWS * TILE];
        dot_block<ROWS, TILE>(x, w + c, k, sums);
        for (int r = 0; r < ROWS; ++r) {
            for (int i = 0; i < TILE; ++i)
                out[static_cast<std::size_t>(r) * stride + static_cast<std::size_t>(c + i)] = sums[r * TILE + i];
        }
    }
    for (; c < columns; ++c) {
        float sums[ROWS];
        dot_block<ROWS, 1>(x, w + c, k, sums);
        for (int r = 0; r < ROWS; ++r)
            out[static_cast<std::size_t>(r) * stride + static_cast<std::size_t>(c)] = sums[r];
    }
}

// out[r * stride + c] = x[r] . w[c] for 1 to 4 rows.
template <Format FORMAT>
inline void dot_rows(int rows, const float* const* x, const Column<FORMAT>* w, int columns, int k, float* out,
                     std::size_t stride) {
    switch (rows) {
        case 1: return dot_rows<1>(x, w, columns, k, out, stride);
        case 2: return dot_rows<2>(x, w, columns, k, out, stride);
        case 3: return dot_rows<3>(x, w, columns, k, out, stride);
        default: return dot_rows<4>(x, w, columns, k, out, stride);
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
