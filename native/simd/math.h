// exp and tanh in float32, within 2 units in the last place, and the activations, within a few (see test_cpu_math.py);
// branch-free, so that loops over them vectorise, and the same bits in every path. The polynomials are Chebyshev fits
// made for these intervals.
#pragma once

#include "kernels/kernels.h"
#include "simd/half.h"

namespace plait::PLAIT_PATH {
namespace {

// exp(x) = 2^n exp(r) with n = round(x / ln 2); exp(r) = 1 + r + r^2 P(r) for |r| <= ln(2) / 2.
inline float exponential(float x) {
    x = x < -104.0f ? -104.0f : x;  // exp is 0 below, infinite above; NaN passes both comparisons
    x = x > 89.0f ? 89.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: leaves n, rounded, in the lowest bits
    const float n = shifted - 12582912.0f;
    float r = x - n * 0.693145752f;  // ln 2 in two parts; n times the first is exact
    r = r - n * 1.42860682e-6f;
    float p = 0.001392692661f;
    p = p * r + 0.008363773874f;
    p = p * r + 0.04166655011f;
    p = p * r + 0.1666657338f;
    p = p * r + 0.5f;
    p = (p * (r * r) + r) + 1.0f;
    // 2^n in two factors, since one alone may be no normal number.
    const std::uint32_t exponent = bits_of(shifted) - 0x4b400000u;
    const std::uint32_t half = static_cast<std::uint32_t>(static_cast<std::int32_t>(exponent) >> 1);
    return p * float_of((half + 127u) << 23) * float_of((exponent - half + 127u) << 23);
}

// x + x^3 P(x^2) near 0, else 1 - 2 / (exp(2x) + 1) with x's sign.
inline float hyperbolic_tangent(float x) {
    const float u = x * x, a = float_of(bits_of(x) & 0x7fffffffu);
    float p = -0.006045165097f;
    p = p * u + 0.02096132911f;
    p = p * u + -0.05384326318f;
    p = p * u + 0.1333271885f;
    p = p * u + -0.3333332843f;
    const float near = x + x * (u * p);
    const float far = 1.0f - 2.0f / (exponential(2.0f * a) + 1.0f);
    return a < 0.625f ? near : float_of(bits_of(far) | (bits_of(x) & 0x80000000u));
}

// erfc(a / sqrt 2) for a >= 0: with z = a / sqrt 2 and t = 1 / (1 + z / 2) it is t exp(P(t) - z^2). z^2 is a^2 / 2, and
// a^2 is split into an exact square and the rest, so that no rounding of it shows.
inline float normal_tails(float a) {
    a = a > 20.0f ? 20.0f : a;  // 0 from there on
    const float t = 1.0f / (1.0f + 0.353553391f * a);
    float p = -0.1225753286f;
    p = p * t + 0.854938105f;
    p = p * t + -2.477755543f;
    p = p * t + 3.766418456f;
    p = p * t + -3.097875476f;
    p = p * t + 1.378728955f;
    p = p * t + -0.5895332652f;
    p = p * t + 0.1916163555f;
    p = p * t + 0.3604920983f;
    p = p * t + 1.001092883f;
    p = p * t + -1.265547237f;
    const float high = float_of(bits_of(a) & 0xfffff000u);
    return t * exponential(-0.5f * (high * high)) * exponential(0.5f * ((high - a) * (high + a)) + p);
}

inline float silu(float x) { return x / (1.0f + exponential(-x)); }

// x Phi(x): 0.5 x erfc(-x / sqrt 2), from the side where nothing cancels.
inline float gelu(float x) {
    const float tails = normal_tails(float_of(bits_of(x) & 0x7fffffffu));
    return 0.5f * x * (x < 0.0f ? tails : 2.0f - tails);
}

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
inline float gelu_tanh(float x) {
    const float u = 0.797884561f * (x + 0.044715f * x * x * x);
    return x / (1.0f + exponential(-2.0f * u));
}

// out[i] = act(x[i]) * factor[i]; `factor` may be null.
template <float (*Act)(float)>
inline void activate_row(const float* x, const float* factor, float* out, int n) {
    if (factor == nullptr) {
        for (int i = 0; i < n; ++i) out[i] = Act(x[i]);
    } else {
        for (int i = 0; i < n; ++i) out[i] = Act(x[i]) * factor[i];
    }
}

inline void activate(Activation activation, const float* x, const float* factor, float* out, int n) {
    switch (activation) {
        case Activation::Silu: return activate_row<silu>(x, factor, out, n);
        case Activation::Gelu: return activate_row<gelu>(x, factor, out, n);
        case Activation::GeluTanh: return activate_row<gelu_tanh>(x, factor, out, n);
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
