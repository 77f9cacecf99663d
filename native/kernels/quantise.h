// Rows rounded to 8 bits, in panels (kernels/layout.h).
#pragma once

#include "kernels/linear.h"
#include "simd/bytes.h"

namespace plait::PLAIT_PATH {
namespace {

// The largest magnitude is found among the bit patterns, where NaN is above all, so that it reaches the scale.
inline float largest_magnitude(const float* x, int n) {
    I most{};
    for (int i = 0; i < n; i += kWidth) {
        const I magnitude = reinterpret_cast<I>(load(x + i)) & 0x7fffffff;
        most = magnitude > most ? magnitude : most;
    }
    return float_of(static_cast<std::uint32_t>(largest_lane(most)));
}

// q = x * inverse rounded to nearest even.
inline void quantise_block(const float* __restrict x, float scale, float inverse, PanelBlock* __restrict out) {
    const V factor = broadcast(inverse), shift = broadcast(12582912.0f);  // 1.5 * 2^23: leaves the number in the lowest bits
    for (int i = 0; i < kPackedInputs; i += kWidth) {
        store_low_bytes(out->q + i, reinterpret_cast<I>(load(x + i) * factor + shift));
    }
    const std::int32_t first = sum_16(out->q), second = sum_16(out->q + 16), sum = first + second;
    out->half_sums[0] = static_cast<std::int16_t>(first);
    out->half_sums[1] = static_cast<std::int16_t>(second);
    out->less_32[0] = -32 * first;
    out->less_32[1] = -32 * second;
    out->scale = scale;
    out->sum = scale * static_cast<float>(sum);
    out->less_8 = -8 * sum;
    out->less_128 = -128 * sum;
}

inline std::int16_t sum_of(const PanelBlock& block) {
    return static_cast<std::int16_t>(block.half_sums[0] + block.half_sums[1]);
}

// Values that share a scale, and their blocks in the panel, `stride` apart: one, or an even number.
struct Run {
    const float* x;
    PanelBlock* out;
    int stride;
};

inline void quantise_run(const Run& run, int blocks, float scale, float inverse) {
    for (int b = 0; b < blocks; ++b) {
        quantise_block(run.x + b * kPackedInputs, scale, inverse, run.out + b * run.stride);
    }
    for (int b = 0; b + 1 < blocks; b += 2) {
        PanelBlock &even = run.out[b * run.stride], &odd = run.out[(b + 1) * run.stride];
        even.pair_sums[0] = odd.pair_sums[0] = sum_of(even);
        even.pair_sums[1] = odd.pair_sums[1] = sum_of(odd);
    }
}

// So many scales are found together: divisions one by one would take as long as all else.
constexpr int kRuns = 16;

// Each with a scale of max |x| / 127.
inline void quantise_runs(const Run* runs, int count, int blocks) {
    alignas(64) float largest[kRuns] = {}, scale[kRuns], inverse[kRuns];
    for (int i = 0; i < count; ++i) largest[i] = largest_magnitude(runs[i].x, blocks * kPackedInputs);
    for (int i = 0; i < count; i += kWidth) {
        const V most = load(largest + i), levels = broadcast(127.0f), none{};
        const auto zero = most < broadcast(1e-30f);  // 127 / most would be infinite for smaller ones
        store(scale + i, zero ? none : most / levels);
        store(inverse + i, zero ? none : levels / most);
    }
    for (int i = 0; i < count; ++i) quantise_run(runs[i], blocks, scale[i], inverse[i]);
}

inline void quantise(const QuantiseArgs& a) {
    const int blocks = a.columns / kPackedInputs, first_row = group_start(a.rows, a.first_group);
    const int run = a.scale_inputs / kPackedInputs;
    Run runs[kRuns];
    int count = 0;
    for (int g = a.first_group; g < a.last_group; ++g) {
        const int start = group_start(a.rows, g), rows = group_start(a.rows, g + 1) - start;
        PanelBlock* panel = a.out + static_cast<std::size_t>(start) * static_cast<std::size_t>(blocks);
        for (int r = 0; r < rows; ++r) {
            const float* in = input_row(a.x, start - first_row + r);
            for (int b = a.first / kPackedInputs; b < a.last / kPackedInputs; b += run, in += a.scale_inputs) {
                runs[count++] = {in, panel + b * rows + r, rows};
                if (count < kRuns) continue;
                quantise_runs(runs, count, run);
                count = 0;
            }
        }
    }
    quantise_runs(runs, count, run);
}

}  // namespace
}  // namespace plait::PLAIT_PATH
