// Passes over one row of logits for the sampler: the largest, those above a bound, weights, a token mask.
#pragma once

#include "kernels/kernels.h"
#include "simd/half.h"
#include "simd/math64.h"
#include "simd/vector.h"

namespace plait::PLAIT_PATH {
namespace {

// A multiple of every path's width.
constexpr int kScanStep = 16;

inline void fold_row(const float* __restrict x, int n, float* __restrict maxima, std::uint32_t* __restrict worst) {
    int i = 0;
    for (; i + kScanStep <= n; i += kScanStep) {
        for (int l = 0; l < kScanStep; ++l) {
            const float v = x[i + l];
            const std::uint32_t magnitude = bits_of(v) & 0x7fffffffu;
            maxima[i + l] = v > maxima[i + l] ? v : maxima[i + l];
            worst[l] = magnitude > worst[l] ? magnitude : worst[l];
        }
    }
    for (int l = 0; i < n; ++i, ++l) {
        const std::uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
        maxima[i] = x[i] > maxima[i] ? x[i] : maxima[i];
        worst[l] = magnitude > worst[l] ? magnitude : worst[l];
    }
}

// See ScanArgs.
inline ScanResult scan_logits(const ScanArgs& a) {
    alignas(64) std::uint32_t worst[kScanStep] = {};
    for (int c = 0; c < a.columns; ++c) a.maxima[c] = -__builtin_inff();
    for (int i = 0; i < a.n; i += a.columns) fold_row(a.x + i, a.n - i < a.columns ? a.n - i : a.columns, a.maxima, worst);
    float top = a.maxima[0];
    for (int c = 1; c < a.columns; ++c) top = a.maxima[c] > top ? a.maxima[c] : top;
    std::uint32_t largest = 0;
    for (int l = 0; l < kScanStep; ++l) largest = worst[l] > largest ? worst[l] : largest;
    return {top, largest > 0x7f800000u};
}

// The first index at which x is `value`; n if there is none.
inline int find_logit(const float* x, int n, float value) {
    constexpr int piece = 64;
    int i = 0;
    for (; i + piece <= n; i += piece) {
        int hits = 0;
        for (int l = 0; l < piece; ++l) hits += x[i + l] == value;
        if (hits != 0) break;
    }
    while (i < n && x[i] != value) ++i;
    return i;
}

// Ascending indices i with x[i] >= bound, and those x; returns how many. Both outputs have room for n + 16.
inline int gather_logits(const float* x, int n, float bound, std::int32_t* ids, float* values) {
    int count = 0, i = 0;
#if defined(__AVX512F__)
    const __m512 limit = _mm512_set1_ps(bound);
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (; i + 16 <= n; i += 16) {
        const __m512 v = _mm512_loadu_ps(x + i);
        const __mmask16 found = _mm512_cmp_ps_mask(v, limit, _CMP_GE_OQ);
        if (found == 0) continue;
        // Compressed in a register and stored whole: compressing stores are slow on some CPUs.
        _mm512_storeu_ps(values + count, _mm512_maskz_compress_ps(found, v));
        _mm512_storeu_si512(ids + count, _mm512_maskz_compress_epi32(found, _mm512_add_epi32(lanes, _mm512_set1_epi32(i))));
        count += __builtin_popcount(found);
    }
#elif defined(__AVX__)
    const __m256 limit = _mm256_set1_ps(bound);
    for (; i + 8 <= n; i += 8) {
        auto found = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), limit, _CMP_GE_OQ)));
        for (; found != 0; found &= found - 1) {
            const int at = i + __builtin_ctz(found);
            ids[count] = at;
            values[count++] = x[at];
        }
    }
#elif defined(PLAIT_NEON)
    const float32x4_t limit = vdupq_n_f32(bound);
    for (; i + 4 <= n; i += 4) {
        if (vmaxvq_u32(vcgeq_f32(vld1q_f32(x + i), limit)) == 0) continue;
        for (int at = i; at < i + 4; ++at) {
            ids[count] = at;
            values[count] = x[at];
            count += x[at] >= bound;
        }
    }
#endif
    for (; i < n; ++i) {
        if (!(x[i] >= bound)) continue;
        ids[count] = i;
        values[count++] = x[i];
    }
    return count;
}

// The sum in 16 lanes, lane l taking the terms with i % 16 == l in ascending order; then the lanes in a fixed tree.
inline double sum_doubles(const double* x, int n) {
    alignas(64) double lanes[kLanes] = {};
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (int l = 0; l < kLanes; ++l) lanes[l] += x[i + l];
    }
    for (int l = 0; i < n; ++i, ++l) lanes[l] += x[i];
    for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    return lanes[0];
}

// out[i] = exp((x[i] - top) * scale), where no x is above top; returns their sum.
inline double weigh_logits(const float* x, int n, double top, double scale, double* out) {
    for (int i = 0; i < n; ++i) out[i] = falling_exponential((static_cast<double>(x[i]) - top) * scale);
    return sum_doubles(out, n);
}

inline double weigh_doubles(const double* x, int n, double top, double* out) {
    for (int i = 0; i < n; ++i) out[i] = falling_exponential(x[i] - top);
    return sum_doubles(out, n);
}

// out[i] = x[i] where bit i % 32 of word i / 32 is set, else -inf.
inline void mask_logits(const float* x, const std::uint32_t* words, int n, float* out) {
    for (int first = 0; first < n; first += 32) {
        const std::uint32_t word = words[first / 32];
        const int count = n - first < 32 ? n - first : 32;
        for (int l = 0; l < count; ++l) {
            const std::uint32_t keep = 0u - (word >> l & 1u);
            out[first + l] = float_of((bits_of(x[first + l]) & keep) | (0xff800000u & ~keep));
        }
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
