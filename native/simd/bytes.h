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
#elif defined(PLAIT_NEON)
    return reinterpret_cast<V>(vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))));
#else
    V v;
    for (int i = 0; i < kWidth; ++i) v[i] = f16_to_f32(read_u16(p + 2 * i));
    return v;
#endif
}

#if defined(PLAIT_NEON)
inline uint8x8_t load_4_bytes(const std::uint8_t* p) {
    std::uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return vreinterpret_u8_u32(vdup_n_u32(four));
}
#endif

inline V load_bfloats(const std::uint8_t* p) {
#if defined(__AVX512F__)
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return reinterpret_cast<V>(reinterpret_cast<U>(wide) << 16);
#elif defined(__AVX2__)
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return reinterpret_cast<V>(reinterpret_cast<U>(wide) << 16);
#else
    V v;
    for (int i = 0; i < kWidth; ++i) v[i] = bf16_to_f32(read_u16(p + 2 * i));
    return v;
#endif
}

// The largest of the lanes, none negative.
inline std::int32_t largest_lane(I v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32(reinterpret_cast<__m512i>(v));
#elif defined(__AVX2__)
    const __m256i all = reinterpret_cast<__m256i>(v);
    __m128i most = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    most = _mm_max_epi32(most, _mm_unpackhi_epi64(most, most));
    return _mm_cvtsi128_si32(_mm_max_epi32(most, _mm_shuffle_epi32(most, 1)));
#elif defined(PLAIT_NEON)
    return vmaxvq_s32(reinterpret_cast<int32x4_t>(v));
#else
    std::int32_t most = 0;
    for (int i = 0; i < kWidth; ++i) most = v[i] > most ? v[i] : most;
    return most;
#endif
}

// out[i] = the lowest byte of lane i.
inline void store_low_bytes(std::int8_t* out, I v) {
#if defined(__AVX512F__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v)));
#elif defined(__AVX2__)
    const __m256i low = reinterpret_cast<__m256i>(v & 0xff);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
#elif defined(__SSE2__)
    const __m128i low = reinterpret_cast<__m128i>(v & 0xff), words = _mm_packs_epi32(low, low);
    const std::int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    __builtin_memcpy(out, &four, sizeof four);
#elif defined(PLAIT_NEON)
    const uint16x4_t words = vmovn_u32(reinterpret_cast<uint32x4_t>(v));
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
    vst1_lane_u32(reinterpret_cast<std::uint32_t*>(out), vreinterpret_u32_u8(bytes), 0);
#else
    for (int i = 0; i < kWidth; ++i) out[i] = static_cast<std::int8_t>(v[i] & 0xff);
#endif
}

inline std::int32_t sum_16(const std::int8_t* q) {
#if defined(__SSE2__)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
    const __m128i raised = _mm_xor_si128(bytes, _mm_set1_epi8(-128)), sums = _mm_sad_epu8(raised, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
#elif defined(PLAIT_NEON)
    return vaddlvq_s8(vld1q_s8(q));
#else
    std::int32_t sum = 0;
    for (int i = 0; i < 16; ++i) sum += q[i];
    return sum;
#endif
}

// kWidth unsigned or signed bytes.
inline I load_unsigned(const std::uint8_t* p) {
#if defined(__AVX512F__)
    return reinterpret_cast<I>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
    return reinterpret_cast<I>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#elif defined(PLAIT_NEON)
    return reinterpret_cast<I>(vmovl_u16(vget_low_u16(vmovl_u8(load_4_bytes(p)))));
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
#elif defined(PLAIT_NEON)
    return reinterpret_cast<I>(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_4_bytes(p))))));
#else
    I v;
    for (int i = 0; i < kWidth; ++i) v[i] = static_cast<std::int8_t>(p[i]);
    return v;
#endif
}

// Twice kWidth unsigned bytes, as 16-bit numbers.
inline S load_unsigned_16(const std::uint8_t* p) {
#if defined(__AVX512BW__)
    return reinterpret_cast<S>(_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
    return reinterpret_cast<S>(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(PLAIT_NEON)
    return reinterpret_cast<S>(vmovl_u8(vld1_u8(p)));
#else
    S v;
    for (int i = 0; i < 2 * kWidth; ++i) v[i] = p[i];
    return v;
#endif
}

// sum + the lane's two 16-bit numbers of `a` times those of `b`, each with its own.
inline I add_pairs(I sum, S a, S b) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<I>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(a),
                                                   reinterpret_cast<__m512i>(b)));
#elif defined(__AVX512BW__)
    return sum + reinterpret_cast<I>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return sum + reinterpret_cast<I>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(PLAIT_NEON)
    const int16x8_t c = reinterpret_cast<int16x8_t>(a), d = reinterpret_cast<int16x8_t>(b);
    const int32x4_t low = vmull_s16(vget_low_s16(c), vget_low_s16(d));
    return sum + reinterpret_cast<I>(vpaddq_s32(low, vmull_high_s16(c, d)));
#elif defined(__SSE2__)
    return sum + reinterpret_cast<I>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
    for (int i = 0; i < kWidth; ++i) sum[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sum;
#endif
}

// The same two numbers for every lane.
inline I dot_pairs(I sum, S pairs, const std::int16_t (&two)[2]) {
    std::int32_t both;
    __builtin_memcpy(&both, two, sizeof both);
    return add_pairs(sum, pairs, reinterpret_cast<S>(spread(both)));
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
#elif defined(PLAIT_NEON)
    return reinterpret_cast<U>(vqtbl1q_u8(vld1q_u8(table), reinterpret_cast<uint8x16_t>(indices)));
#else
    std::uint8_t bytes[sizeof(U)];
    __builtin_memcpy(bytes, &indices, sizeof bytes);
    for (std::uint8_t& byte : bytes) byte = table[byte];
    return load_lanes(bytes);
#endif
}

// Weights of a whole byte, and of fewer bits: up to MOST, 63 at most. `quads_in_16`: of how many times four inputs the
// products' pairs may be added up in 16 bits before they are widened; 0 where products need no such pairs.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

struct ByteWeights {
    static constexpr bool corrected = true;  // sums begin at -128 times the activations' sum
    static constexpr int quads_in_16 = 0;
    U w;
    explicit ByteWeights(U bytes) : w(bytes) {}
};
template <int MOST>
using SmallWeights = ByteWeights;

inline I dot(I sum, const ByteWeights& w, I x) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<I>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(w.w),
                                                   reinterpret_cast<__m512i>(x)));
#else
    return reinterpret_cast<I>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(w.w),
                                                       reinterpret_cast<__m256i>(x)));
#endif
}

#elif defined(__AVX2__)

// Pairs of products are added in 16 bits. An unsigned byte up to 255 would overflow them, so the weight's magnitude, of
// 128 at most, goes with the activation under the weight's sign.
#if defined(__AVX512BW__)
inline S multiply_pairs(U w, I x) {
    return reinterpret_cast<S>(_mm512_maddubs_epi16(reinterpret_cast<__m512i>(w), reinterpret_cast<__m512i>(x)));
}
inline I widen_pairs(I sum, S pairs) { return add_pairs(sum, pairs, S{} + std::int16_t{1}); }

struct ByteWeights {
    static constexpr bool corrected = false;
    static constexpr int quads_in_16 = 0;
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
    return widen_pairs(sum, multiply_pairs(w.magnitude, reinterpret_cast<I>(turned)));
}
#else
inline S multiply_pairs(U w, I x) {
    return reinterpret_cast<S>(_mm256_maddubs_epi16(reinterpret_cast<__m256i>(w), reinterpret_cast<__m256i>(x)));
}
inline I widen_pairs(I sum, S pairs) { return add_pairs(sum, pairs, S{} + std::int16_t{1}); }

struct ByteWeights {
    static constexpr bool corrected = false;
    static constexpr int quads_in_16 = 0;
    U magnitude, w;
    explicit ByteWeights(U bytes) : w(bytes ^ 0x80808080u) {
        magnitude = reinterpret_cast<U>(_mm256_abs_epi8(reinterpret_cast<__m256i>(w)));
    }
};

inline I dot(I sum, const ByteWeights& w, I x) {
    const __m256i turned = _mm256_sign_epi8(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(w.w));
    return widen_pairs(sum, multiply_pairs(w.magnitude, reinterpret_cast<I>(turned)));
}
#endif

// A pair of products is at most 2 x 128 x MOST, so several fit.
template <int MOST>
struct SmallWeights {
    static constexpr int quads_in_16 = 32767 / (2 * 128 * MOST);
    U w;
    explicit SmallWeights(U bytes) : w(bytes) {}
};

#elif defined(PLAIT_NEON)

// Products are of signed bytes: a weight of a whole byte loses its 128 here, so that sums need no correction.
struct ByteWeights {
    static constexpr bool corrected = false;
    static constexpr int quads_in_16 = 0;
    int8x16_t w;
    explicit ByteWeights(U bytes) : w(reinterpret_cast<int8x16_t>(bytes ^ 0x80808080u)) {}
};

template <int MOST>
struct SmallWeights {
    static constexpr int quads_in_16 = 0;
    int8x16_t w;
    explicit SmallWeights(U bytes) : w(reinterpret_cast<int8x16_t>(bytes)) {}
};

#if defined(__ARM_FEATURE_DOTPROD)
// The lane of the register that holds 16 of the row's values is part of the instruction, so nothing is spread.
template <class W>
[[gnu::always_inline]] inline I dot_quad(I sum, const W& w, const std::int8_t* x, int quad) {
    const int8x16_t four_quads = vld1q_s8(x + quad / 4 * 16);
    const int32x4_t s = reinterpret_cast<int32x4_t>(sum);
    switch (quad % 4) {
        case 0: return reinterpret_cast<I>(vdotq_laneq_s32(s, w.w, four_quads, 0));
        case 1: return reinterpret_cast<I>(vdotq_laneq_s32(s, w.w, four_quads, 1));
        case 2: return reinterpret_cast<I>(vdotq_laneq_s32(s, w.w, four_quads, 2));
        default: return reinterpret_cast<I>(vdotq_laneq_s32(s, w.w, four_quads, 3));
    }
}
#define PLAIT_DOT_QUAD
#else
// Two products, of 128 x 127 at most, fit in 16 bits.
template <class W>
inline I dot(I sum, const W& w, I x) {
    const int8x16_t v = reinterpret_cast<int8x16_t>(x);
    const int16x8_t low = vmull_s8(vget_low_s8(w.w), vget_low_s8(v)), high = vmull_high_s8(w.w, v);
    return reinterpret_cast<I>(vpadalq_s16(reinterpret_cast<int32x4_t>(sum), vpaddq_s16(low, high)));
}
#endif

#else

// Bytes 0 and 2 of each lane, and 1 and 3, as 16-bit numbers.
struct ByteWeights {
    static constexpr bool corrected = true;
    static constexpr int quads_in_16 = 0;
    S even, odd;
    explicit ByteWeights(U bytes)
        : even(reinterpret_cast<S>(bytes & 0x00ff00ffu)), odd(reinterpret_cast<S>(bytes >> 8 & 0x00ff00ffu)) {}
};
template <int MOST>
using SmallWeights = ByteWeights;

inline I dot(I sum, const ByteWeights& w, I x) {
    const S even = reinterpret_cast<S>(reinterpret_cast<U>(x) << 8 & 0xff00ff00u) >> 8, odd = reinterpret_cast<S>(x) >> 8;
    return add_pairs(add_pairs(sum, w.even, even), w.odd, odd);
}

#endif

// x[4 * quad]..., the same four for every lane.
inline I spread_quad(const std::int8_t* x, int quad) {
    std::int32_t four;
    __builtin_memcpy(&four, x + 4 * quad, sizeof four);
    return spread(four);
}

// sum + the products with them.
#if !defined(PLAIT_DOT_QUAD)
template <class W>
[[gnu::always_inline]] inline I dot_quad(I sum, const W& w, const std::int8_t* x, int quad) {
    return dot(sum, w, spread_quad(x, quad));
}
#endif

}  // namespace
}  // namespace plait::PLAIT_PATH
