// Rows rounded to 8 bits, in panels (kernels/layout.h).
#pragma once

#include "kernels/linear.h"

namespace plait::PLAIT_PATH {
namespace {

// The largest magnitude is found among the bit patterns, where NaN is above all, so that it reaches the scale.
inline float largest_magnitude(const float* x, int n) {
    std::uint32_t most = 0;
    for (int i = 0; i < n; ++i) {
        const std::uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
        most = magnitude > most ? magnitude : most;
    }
    return float_of(most);
}

// q = x * inverse rounded to nearest even.
inline void quantise_block(const float* __restrict x, float scale, float inverse, PanelBlock* __restrict out) {
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
        out->half_sums[half] = static_cast<std::int16_t>(sum);
        out->less_32[half] = -32 * sum;
    }
    const std::int32_t sum = sums[0] + sums[1];
    out->scale = scale;
    out->sum = scale * static_cast<float>(sum);
    out->less_8 = -8 * sum;
    out->less_128 = -128 * sum;
}

inline std::int16_t sum_of(const PanelBlock& block) {
    return static_cast<std::int16_t>(block.half_sums[0] + block.half_sums[1]);
}

// Blocks that share a scale, of max |x| / 127, `stride` apart in the panel: one, or an even number.
inline void quantise_run(const float* x, int blocks, PanelBlock* out, int stride) {
    const float largest = largest_magnitude(x, blocks * kPackedInputs);
    const bool zero = largest < 1e-30f;  // 127 / largest would be infinite for smaller ones
    const float scale = zero ? 0.0f : largest / 127.0f, inverse = zero ? 0.0f : 127.0f / largest;
    for (int b = 0; b < blocks; ++b) quantise_block(x + b * kPackedInputs, scale, inverse, out + b * stride);
    for (int b = 0; b + 1 < blocks; b += 2) {
        PanelBlock &even = out[b * stride], &odd = out[(b + 1) * stride];
        even.pair_sums[0] = odd.pair_sums[0] = sum_of(even);
        even.pair_sums[1] = odd.pair_sums[1] = sum_of(odd);
    }
}

inline void quantise(const QuantiseArgs& a) {
    const int blocks = a.columns / kPackedInputs, first_row = group_start(a.rows, a.first_group);
    const int run = a.scale_inputs / kPackedInputs;
    for (int g = a.first_group; g < a.last_group; ++g) {
        const int start = group_start(a.rows, g), rows = group_start(a.rows, g + 1) - start;
        PanelBlock* panel = a.out + static_cast<std::size_t>(start) * static_cast<std::size_t>(blocks);
        for (int r = 0; r < rows; ++r) {
            const float* in = input_row(a.x, start - first_row + r);
            for (int b = a.first / kPackedInputs; b < a.last / kPackedInputs; b += run, in += a.scale_inputs) {
                quantise_run(in, run, panel + b * rows + r, rows);
            }
        }
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
