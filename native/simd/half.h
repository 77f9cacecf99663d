// 16-bit floats to float32 and back, rounding to nearest even; the same bits with and without hardware for it.
#pragma once

#include "simd/vector.h"

namespace plait::PLAIT_PATH {
namespace {

inline std::uint32_t bits_of(float x) {
    std::uint32_t u;
    __builtin_memcpy(&u, &x, sizeof u);
    return u;
}

inline float float_of(std::uint32_t u) {
    float x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

inline std::uint16_t read_u16(const std::uint8_t* p) {
    std::uint16_t u;
    __builtin_memcpy(&u, p, sizeof u);
    return u;
}

inline void write_u16(std::uint8_t* p, std::uint16_t u) { __builtin_memcpy(p, &u, sizeof u); }

inline float f16_to_f32(std::uint16_t h) {
#if defined(__F16C__)
    return _cvtsh_ss(h);
#elif defined(PLAIT_NEON)
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h))), 0);
#else
    const std::uint32_t magnitude = h & 0x7fffu;
    const std::uint32_t normal = (magnitude << 13) + (112u << 23);
    // A NaN becomes a quiet one, as the hardware does.
    const std::uint32_t special = (magnitude << 13) | 0x7f800000u | (magnitude > 0x7c00u ? 0x400000u : 0u);
    const std::uint32_t subnormal = bits_of(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
    const std::uint32_t finite = magnitude < 0x400u ? subnormal : normal;
    return float_of((magnitude >= 0x7c00u ? special : finite) | (h & 0x8000u) << 16);
#endif
}

inline std::uint16_t f32_to_f16(float x) {
#if defined(__F16C__)
    return _cvtss_sh(x, 0);
#elif defined(PLAIT_NEON)
    return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x))), 0);
#else
    const std::uint32_t sign = bits_of(x) >> 16 & 0x8000u, magnitude = bits_of(x) & 0x7fffffffu;
    // Where half has no normal numbers, adding 0.5 leaves its 2^-24 units, rounded, in the lowest bits.
    const std::uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    const std::uint32_t rebased = magnitude - (112u << 23);
    const std::uint32_t normal = (rebased + 0xfffu + (rebased >> 13 & 1u)) >> 13;
    const std::uint32_t nan = 0x7e00u | (magnitude >> 13 & 0x3ffu);
    std::uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x47800000u ? 0x7c00u : half;
    half = magnitude > 0x7f800000u ? nan : half;
    return static_cast<std::uint16_t>(sign | half);
#endif
}

inline float bf16_to_f32(std::uint16_t h) { return float_of(static_cast<std::uint32_t>(h) << 16); }

inline std::uint16_t f32_to_bf16(float x) {
    const std::uint32_t u = bits_of(x);
    const std::uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    const std::uint32_t nan = (u >> 16) | 0x40u;
    return static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// kWidth of them.
inline V load_brains(const std::uint8_t* p) {
#if defined(__AVX512F__)
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return reinterpret_cast<V>(_mm512_slli_epi32(wide, 16));
#elif defined(__AVX2__)
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return reinterpret_cast<V>(_mm256_slli_epi32(wide, 16));
#elif defined(PLAIT_NEON)
    return reinterpret_cast<V>(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
#else
    V v;
    for (int i = 0; i < kWidth; ++i) v[i] = bf16_to_f32(read_u16(p + 2 * i));
    return v;
#endif
}

inline void f16_row_to_f32(const std::uint8_t* __restrict in, float* __restrict out, int n) {
    int i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 2 * i))));
    }
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 2 * i))));
    }
#elif defined(PLAIT_NEON)
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(in + 2 * i))));
#endif
    for (; i < n; ++i) out[i] = f16_to_f32(read_u16(in + 2 * i));
}

inline void f32_row_to_f16(const float* __restrict in, std::uint8_t* __restrict out, int n) {
    int i = 0;
#if defined(PLAIT_NEON)
    for (; i + 4 <= n; i += 4) vst1_u8(out + 2 * i, vreinterpret_u8_f16(vcvt_f16_f32(vld1q_f32(in + i))));
#endif
    for (; i < n; ++i) write_u16(out + 2 * i, f32_to_f16(in[i]));
}

inline void bf16_row_to_f32(const std::uint8_t* __restrict in, float* __restrict out, int n) {
    for (int i = 0; i < n; ++i) out[i] = bf16_to_f32(read_u16(in + 2 * i));
}

inline void f32_row_to_bf16(const float* __restrict in, std::uint8_t* __restrict out, int n) {
    for (int i = 0; i < n; ++i) write_u16(out + 2 * i, f32_to_bf16(in[i]));
}

}  // namespace
}  // namespace plait::PLAIT_PATH
