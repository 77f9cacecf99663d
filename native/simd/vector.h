// The path's SIMD vector, and the one order in which this library sums.
//
// A sum over i runs in 16 lanes, lane l taking the terms with i % 16 == l in ascending order; then the lanes are added
// in a fixed tree. Every path does exactly this, whatever its vector width, so all give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(PLAIT_NEON)
#include <arm_neon.h>
#endif

#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
#define PLAIT_SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define PLAIT_SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, ::plait::PLAIT_PATH::I4{i, j, k, l})
#endif

namespace plait::PLAIT_PATH {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kLanes = 16;

// Whether there are 32 vector registers, not 16: how large register tiles may be.
#if defined(__AVX512F__) || defined(PLAIT_NEON)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

typedef float V __attribute__((vector_size(kWidth * sizeof(float))));
typedef float V4 __attribute__((vector_size(16)));
typedef std::int32_t I4 __attribute__((vector_size(16)));

inline V load(const float* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

inline V4 load4(const float* p) {
    V4 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float* p, V v) { __builtin_memcpy(p, &v, sizeof v); }

// Subtracting zero changes no bit, so that nothing is left of it; an addition would turn -0 to 0, and so stay.
inline V broadcast(float x) { return x - V{}; }

// Lanes 0..15 to 0..3: (l, l + 8), then (l, l + 4).
inline V4 fold(const float* lanes) {
    return (load4(lanes) + load4(lanes + 8)) + (load4(lanes + 4) + load4(lanes + 12));
}

inline float sum_lanes(const float* lanes) {
    const V4 f = fold(lanes);
    return (f[0] + f[2]) + (f[1] + f[3]);
}

// Four sums at once, by a transpose; the same tree.
inline V4 sum_lanes4(const float* lanes) {
    const V4 a = fold(lanes), b = fold(lanes + 16), c = fold(lanes + 32), d = fold(lanes + 48);
    const V4 ab_low = PLAIT_SHUFFLE4(a, b, 0, 4, 1, 5), ab_high = PLAIT_SHUFFLE4(a, b, 2, 6, 3, 7);
    const V4 cd_low = PLAIT_SHUFFLE4(c, d, 0, 4, 1, 5), cd_high = PLAIT_SHUFFLE4(c, d, 2, 6, 3, 7);
    const V4 f0 = PLAIT_SHUFFLE4(ab_low, cd_low, 0, 1, 4, 5), f1 = PLAIT_SHUFFLE4(ab_low, cd_low, 2, 3, 6, 7);
    const V4 f2 = PLAIT_SHUFFLE4(ab_high, cd_high, 0, 1, 4, 5), f3 = PLAIT_SHUFFLE4(ab_high, cd_high, 2, 3, 6, 7);
    return (f0 + f2) + (f1 + f3);
}

inline void store4(float* p, V4 v) { __builtin_memcpy(p, &v, sizeof v); }

// b where a is no number.
template <class Vector>
inline Vector larger(Vector a, Vector b) {
    return a > b ? a : b;
}

// Four maxima at once. Among numbers their order does not matter.
inline V4 max_lanes4(const float* lanes) {
    V4 v[4];
    for (int i = 0; i < 4; ++i) {
        const float* of = lanes + i * kLanes;
        v[i] = larger(larger(load4(of), load4(of + 8)), larger(load4(of + 4), load4(of + 12)));
    }
    const V4 ab_low = PLAIT_SHUFFLE4(v[0], v[1], 0, 4, 1, 5), ab_high = PLAIT_SHUFFLE4(v[0], v[1], 2, 6, 3, 7);
    const V4 cd_low = PLAIT_SHUFFLE4(v[2], v[3], 0, 4, 1, 5), cd_high = PLAIT_SHUFFLE4(v[2], v[3], 2, 6, 3, 7);
    const V4 ab = larger(ab_low, ab_high), cd = larger(cd_low, cd_high);
    return larger(PLAIT_SHUFFLE4(ab, cd, 0, 1, 4, 5), PLAIT_SHUFFLE4(ab, cd, 2, 3, 6, 7));
}

// The sum of term(i) for 0 <= i < n.
template <class Term>
inline float sum_of(int n, Term term) {
    alignas(64) float lanes[kLanes] = {};
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (int l = 0; l < kLanes; ++l) lanes[l] += term(i + l);
    }
    for (int l = 0; i < n; ++i, ++l) lanes[l] += term(i);
    return sum_lanes(lanes);
}

}  // namespace
}  // namespace plait::PLAIT_PATH
