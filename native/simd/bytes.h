// Dot products of four bytes in each 32-bit lane: weights, unsigned, with the activations' signed bytes. Exact on every
// path: a lane's sum over 32 products stays below 2^20. Vectors are as wide as simd/vector.h's.
#pragma once

#include "simd/half.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace plait::PLAIT_PATH {
namespace {

typedef std::int32_t I __attribute__((vector_size(kWidth * sizeof(float))));
typedef std::uint32_t U __attribute__((vector_size(kWidth * sizeof(float))));
typedef std::int16_t S __attribute__((vector_size(kWidth * sizeof(float))));
typedef std::uint16_t H __attribute__((vector_size(kWidth * sizeof(float))));

inline U load_lanes(const std::uint8_t* p) {
    U u;
    __builtin_memcpy(&u, p, sizeof u);
    return u;
}

inline I spread(std::int32_t x) { return I{} + x; }

inline V to_float(I x) { return __builtin_convertvector(x, V); }

inline V load_halves(const std::uint8_t* p) {
#if defined(__AVX512F__)
    return reinterpret_cast<V>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
    return reinterpret_cast<V>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    V v;
    for (int i = 0; i < kWidth; ++i) v[i] = f16_to_f32(read_u16(p + 2 * i));
    return v;
#endif
}

// kWidth unsigned or signed bytes.
inline I load_unsigned(const std::uint8_t* p) {
#if defined(__AVX512F__)
    return reinterpret_cast<I>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
    return reinterpret_cast<I>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
    I v;
    for (int i = 0; i < kWidth; ++i) v[i] = p[i];
    return v;
#endif
}

inline I load_signed(const std::uint8_t* p) {
#if defined(__AVX512F__)
    return reinterpret_cast<I>(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
    return reinterpret_cast<I>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
    I v;
    for (int i = 0; i < kWidth; ++i) v[i] = static_cast<std::int8_t>(p[i]);
    return v;
#endif
}

// Each byte of `bytes` times the lane's factor, of 16 bits twice, plus the byte of `added`; that fits a byte again.
inline U scaled_bytes(U bytes, U factor, U added) {
    return reinterpret_cast<U>(reinterpret_cast<H>(bytes) * reinterpret_cast<H>(factor) + reinterpret_cast<H>(added));
}

// The entry of `table` at each byte of `indices`, all below 16.
inline U look_up(const std::uint8_t (&table)[16], U indices) {
#if defined(__AVX512BW__)
    const __m512i entries = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    return reinterpret_cast<U>(_mm512_shuffle_epi8(entries, reinterpret_cast<__m512i>(indices)));
#elif defined(__AVX2__)
    const __m256i entries = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    return reinterpret_cast<U>(_mm256_shuffle_epi8(entries, reinterpret_cast<__m256i>(indices)));
#else
    std::uint8_t bytes[sizeof(U)];
    __builtin_memcpy(bytes, &indices, sizeof bytes);
    for (std::uint8_t& byte : bytes) byte = table[byte];
    return load_lanes(bytes);
#endif
}

// Weights of a whole byte, and of fewer bits: up to 63.
#if defined(__AVX512VNNI__)

struct ByteWeights {
    static constexpr bool corrected = true;  // sums begin at -128 times the activations' sum
    U w;
    explicit ByteWeights(U bytes) : w(bytes) {}
};
using SmallWeights = ByteWeights;

inline I dot(I sum, const ByteWeights& w, I x) {
    return reinterpret_cast<I>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(w.w),
                                                   reinterpret_cast<__m512i>(x)));
}

#elif defined(__AVX2__)

// Pairs of products are added in 16 bits. An unsigned byte up to 255 would overflow them, so the weight's magnitude, of
// 128 at most, goes with the activation under the weight's sign.
#if defined(__AVX512BW__)
inline I dot_magnitudes(I sum, U w, I x) {
    const __m512i pairs = _mm512_maddubs_epi16(reinterpret_cast<__m512i>(w), reinterpret_cast<__m512i>(x));
    return sum + reinterpret_cast<I>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

struct ByteWeights {
    static constexpr bool corrected = false;
    U magnitude;
    __mmask64 negative;
    explicit ByteWeights(U bytes) {
        const __m512i w = reinterpret_cast<__m512i>(bytes ^ 0x80808080u);
        magnitude = reinterpret_cast<U>(_mm512_abs_epi8(w));
        negative = _mm512_movepi8_mask(w);
    }
};

inline I dot(I sum, const ByteWeights& w, I x) {
    const __m512i v = reinterpret_cast<__m512i>(x);
    const __m512i turned = _mm512_mask_sub_epi8(v, w.negative, _mm512_setzero_si512(), v);
    return dot_magnitudes(sum, w.magnitude, reinterpret_cast<I>(turned));
}
#else
inline I dot_magnitudes(I sum, U w, I x) {
    const __m256i pairs = _mm256_maddubs_epi16(reinterpret_cast<__m256i>(w), reinterpret_cast<__m256i>(x));
    return sum + reinterpret_cast<I>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

struct ByteWeights {
    static constexpr bool corrected = false;
    U magnitude, w;
    explicit ByteWeights(U bytes) : w(bytes ^ 0x80808080u) {
        magnitude = reinterpret_cast<U>(_mm256_abs_epi8(reinterpret_cast<__m256i>(w)));
    }
};

inline I dot(I sum, const ByteWeights& w, I x) {
    const __m256i turned = _mm256_sign_epi8(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(w.w));
    return dot_magnitudes(sum, w.magnitude, reinterpret_cast<I>(turned));
}
#endif

struct SmallWeights {
    U w;
    explicit SmallWeights(U bytes) : w(bytes) {}
};

inline I dot(I sum, const SmallWeights& w, I x) { return dot_magnitudes(sum, w.w, x); }

#else

// Bytes 0 and 2 of each lane, and 1 and 3, as 16-bit numbers.
struct ByteWeights {
    static constexpr bool corrected = true;
    S even, odd;
    explicit ByteWeights(U bytes)
        : even(reinterpret_cast<S>(bytes & 0x00ff00ffu)), odd(reinterpret_cast<S>(bytes >> 8 & 0x00ff00ffu)) {}
};
using SmallWeights = ByteWeights;

inline I add_pairs(I sum, S a, S b) {
#if defined(__SSE2__)
    return sum + reinterpret_cast<I>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
    for (int i = 0; i < kWidth; ++i) sum[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sum;
#endif
}

inline I dot(I sum, const ByteWeights& w, I x) {
    const S even = reinterpret_cast<S>(reinterpret_cast<U>(x) << 8 & 0xff00ff00u) >> 8, odd = reinterpret_cast<S>(x) >> 8;
    return add_pairs(add_pairs(sum, w.even, even), w.odd, odd);
}

#endif

}  // namespace
}  // namespace plait::PLAIT_PATH
