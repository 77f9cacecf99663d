// Matrix products with weights of any format: a tile of columns is dequantised once for all rows of the step.
#pragma once

#include "kernels/dequantise.h"
#include "kernels/dots.h"
#include "simd/math.h"

namespace plait::PLAIT_PATH {
namespace {

inline const float* input_row(const InputRows& x, int i) {
    return x.base + x.stride * static_cast<std::size_t>(x.index != nullptr ? x.index[i] : i);
}

// Pointers to columns first.. of the weight as float32: where they lie, or dequantised into `scratch`.
inline void float_columns(const Matrix& weight, std::int64_t first, int n, float* scratch, const float** columns) {
    // The padding keeps columns of a power of two from falling into the same cache sets.
    const std::size_t stride = static_cast<std::size_t>(weight.columns) + 16;
    for (int c = 0; c < n; ++c) {
        if (weight.format == Format::F32) {
            const std::size_t row = static_cast<std::size_t>(first + c);
            columns[c] = reinterpret_cast<const float*>(weight.data + row * weight.row_bytes);
        } else {
            columns[c] = scratch + stride * static_cast<std::size_t>(c);
            dequantise(weight, first + c, scratch + stride * static_cast<std::size_t>(c));
        }
    }
}

// out[i * stride + c] = x[i] . weight[first + c] + bias[first + c] for c < n <= kColumnTile.
inline void linear_tile(const InputRows& x, const Matrix& weight, const float* bias, std::int64_t first, int n,
                        float* out, std::size_t stride, float* scratch) {
    const float* columns[kColumnTile];
    float_columns(weight, first, n, scratch, columns);
    for (int i = 0; i < x.count; i += 4) {
        const float* rows[4];
        const int count = x.count - i < 4 ? x.count - i : 4;
        for (int r = 0; r < count; ++r) rows[r] = input_row(x, i + r);
        float* at = out + static_cast<std::size_t>(i) * stride;
        dot_rows(count, rows, columns, n, weight.columns, at, stride);
        if (bias == nullptr) continue;
        for (int r = 0; r < count; ++r) {
            for (int c = 0; c < n; ++c)
                at[static_cast<std::size_t>(r) * stride + static_cast<std::size_t>(c)] += bias[first + c];
        }
    }
}

// Few rows leave no time for columns to come back from the second-level cache; many want the tile's rows read seldom.
inline int tile_of(const InputRows& x, int k) { return x.count <= 2 ? 4 : k <= 1024 ? 8 : kColumnTile; }

inline void linear(const LinearArgs& a) {
    const int tile = tile_of(a.x, a.weight.columns);
    for (std::int64_t c = a.first; c < a.last; c += tile) {
        const int n = a.last - c < tile ? static_cast<int>(a.last - c) : tile;
        linear_tile(a.x, a.weight, a.bias, c, n, a.out + c, a.out_stride, a.scratch);
    }
}

inline void gated(const GatedArgs& a) {
    float* up = a.scratch + linear_scratch(a.gate.columns);
    const int tile = tile_of(a.x, a.gate.columns);
    for (std::int64_t c = a.first; c < a.last; c += tile) {
        const int n = a.last - c < tile ? static_cast<int>(a.last - c) : tile;
        linear_tile(a.x, a.gate, a.gate_bias, c, n, a.out + c, a.out_stride, a.scratch);
        linear_tile(a.x, a.up, a.up_bias, c, n, up, kColumnTile, a.scratch);
        for (int i = 0; i < a.x.count; ++i) {
            float* out = a.out + static_cast<std::size_t>(i) * a.out_stride + c;
            activate(a.activation, out, up + static_cast<std::size_t>(i) * kColumnTile, out, n);
        }
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
