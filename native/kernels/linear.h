// Matrix products in float32 with weights of any format: a tile of columns is read where it lies, or dequantised once
// for all rows of the step.
#pragma once

#include "kernels/dequantise.h"
#include "kernels/dots.h"
#include "simd/math.h"

namespace plait::PLAIT_PATH {
namespace {

inline const float* input_row(const InputRows& x, int i) {
    return x.base + x.stride * static_cast<std::size_t>(x.index != nullptr ? x.index[i] : i);
}

// Up to so many rows convert 16-bit columns as they use them; more share a tile's float32 copy.
constexpr int kConvertedRows = 16;

template <Format FORMAT>
inline void linear_columns(const InputRows& x, Column<FORMAT>* columns, int n, int k, const float* bias, float* out,
                           std::size_t stride) {
    for (int i = 0; i < x.count; i += 4, out += 4 * stride) {
        const float* rows[4];
        const int count = x.count - i < 4 ? x.count - i : 4;
        for (int r = 0; r < count; ++r) rows[r] = input_row(x, i + r);
        dot_rows(count, rows, columns, n, k, out, stride);
        for (int c = 0; c < n; ++c) columns[c].ahead = 0;
        if (bias == nullptr) continue;
        for (int r = 0; r < count; ++r) {
            float* row = out + static_cast<std::size_t>(r) * stride;
            for (int c = 0; c < n; ++c) row[c] += bias[c];
        }
    }
}

// The columns where they lie. The first four rows read them from memory: what follows the tile is fetched meanwhile.
template <Format FORMAT>
inline void linear_stored(const InputRows& x, const Matrix& weight, const float* bias, std::int64_t first, int n,
                          float* out, std::size_t stride) {
    Column<FORMAT> columns[kColumnTile];
    for (int c = 0; c < n; ++c) {
        columns[c] = {weight.data + static_cast<std::size_t>(first + c) * weight.row_bytes,
                      static_cast<std::ptrdiff_t>(weight.row_bytes) * n};
    }
    linear_columns(x, columns, n, weight.columns, bias, out, stride);
}

inline void linear_dequantised(const InputRows& x, const Matrix& weight, const float* bias, std::int64_t first, int n,
                               float* out, std::size_t stride, float* scratch) {
    // The padding keeps columns of a power of two from falling into the same cache sets.
    const std::size_t padded = static_cast<std::size_t>(weight.columns) + 16;
    Column<Format::F32> columns[kColumnTile];
    for (int c = 0; c < n; ++c, scratch += padded) {
        dequantise(weight, first + c, scratch);
        columns[c] = {reinterpret_cast<const std::uint8_t*>(scratch), 0};
    }
    linear_columns(x, columns, n, weight.columns, bias, out, stride);
}

// out[i * stride + c] = x[i] . weight[first + c] + bias[first + c] for c < n <= kColumnTile.
inline void linear_tile(const InputRows& x, const Matrix& weight, const float* bias, std::int64_t first, int n,
                        float* out, std::size_t stride, float* scratch) {
    const bool few = x.count <= kConvertedRows;
    const float* biases = bias == nullptr ? nullptr : bias + first;
    if (weight.format == Format::F32) return linear_stored<Format::F32>(x, weight, biases, first, n, out, stride);
    if (few && weight.format == Format::F16) {
        return linear_stored<Format::F16>(x, weight, biases, first, n, out, stride);
    }
    if (few && weight.format == Format::BF16) {
        return linear_stored<Format::BF16>(x, weight, biases, first, n, out, stride);
    }
    linear_dequantised(x, weight, biases, first, n, out, stride, scratch);
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
