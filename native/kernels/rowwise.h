// Kernels that work on one row at a time: norms, rotary embedding, softmax, elementwise arithmetic.
#pragma once

#include "kernels/kernels.h"
#include "simd/math.h"

namespace plait::PLAIT_PATH {
namespace {

inline void add(const float* a, const float* b, float* out, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

inline void scale(const float* x, float factor, float* out, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

inline void softcap(const float* x, float cap, float* out, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) out[i] = cap * hyperbolic_tangent(x[i] / cap);
}

// What is not a number stays so.
inline void clamp(const float* x, float limit, float* out, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        const float low = x[i] < -limit ? -limit : x[i];
        out[i] = low > limit ? limit : low;
    }
}

inline void add_scaled(const float* x, float factor, float* sum, int n) {
    for (int i = 0; i < n; ++i) sum[i] += factor * x[i];
}

inline void exponential_row(const float* x, float* out, int n) {
    for (int i = 0; i < n; ++i) out[i] = exponential(x[i]);
}

inline float largest(const float* x, int n) {
    float top = x[0];
    for (int i = 1; i < n; ++i) top = x[i] > top ? x[i] : top;
    return top;
}

inline void softmax(const float* x, float* out, int n) {
    const float top = largest(x, n);
    for (int i = 0; i < n; ++i) out[i] = exponential(x[i] - top);
    const float total = sum_of(n, [out](int i) { return out[i]; });
    for (int i = 0; i < n; ++i) out[i] = out[i] / total;
}

inline void rms_norm_part(const float* x, const float* weight, float* out, float eps, float offset, int n) {
    const float mean = sum_of(n, [x](int i) { return x[i] * x[i]; }) / static_cast<float>(n);
    const float inverse = 1.0f / __builtin_sqrtf(mean + eps);
    for (int i = 0; i < n; ++i) out[i] = x[i] * inverse * (weight[i] + offset);
}

inline void rms_norm(const RmsNormArgs& a) {
    const std::size_t width = static_cast<std::size_t>(a.width);
    const int part = a.width / a.groups;
    for (int r = 0; r < a.rows; ++r) {
        const float* x = a.x + static_cast<std::size_t>(r) * width;
        float* out = a.out + static_cast<std::size_t>(r) * width;
        if (a.residual != nullptr) {
            float* total = a.total + static_cast<std::size_t>(r) * width;
            add(x, a.residual + static_cast<std::size_t>(r) * width, total, width);
            x = total;
        }
        for (int g = 0; g < a.groups; ++g) rms_norm_part(x + g * part, a.weight, out + g * part, a.eps, a.offset, part);
    }
}

inline void layer_norm_part(const float* x, const float* weight, const float* bias, float* out, float eps, int n) {
    const float mean = sum_of(n, [x](int i) { return x[i]; }) / static_cast<float>(n);
    const float var = sum_of(n, [x, mean](int i) { return (x[i] - mean) * (x[i] - mean); }) / static_cast<float>(n);
    const float inverse = 1.0f / __builtin_sqrtf(var + eps);
    for (int i = 0; i < n; ++i) out[i] = (x[i] - mean) * inverse * weight[i];
    if (bias != nullptr) add(out, bias, out, static_cast<std::size_t>(n));
}

inline void layer_norm(const LayerNormArgs& a) {
    const int part = a.width / a.groups;
    for (int r = 0; r < a.rows; ++r) {
        const std::size_t row = static_cast<std::size_t>(r) * static_cast<std::size_t>(a.width);
        for (int g = 0; g < a.groups; ++g) {
            const std::size_t at = row + static_cast<std::size_t>(g * part);
            const float* bias = a.bias == nullptr ? nullptr : a.bias + g * a.stride;
            layer_norm_part(a.x + at, a.weight + g * a.stride, bias, a.out + at, a.eps, part);
        }
    }
}

// Of a head whose pairs lie side by side, four at a time: (x, y) times the cosines and (y, x) times (-sin, sin).
inline void rotate_interleaved(const float* in, const float* cos, const float* sin, float* out, int pairs) {
    int i = 0;
    for (; i + 4 <= pairs; i += 4) {
        const V4 c = load4(cos + i), s = load4(sin + i), low = load4(in + 2 * i), high = load4(in + 2 * i + 4);
        const V4 first = low * PLAIT_SHUFFLE4(c, c, 0, 0, 1, 1) +
                         PLAIT_SHUFFLE4(low, low, 1, 0, 3, 2) * PLAIT_SHUFFLE4(s, -s, 4, 0, 5, 1);
        const V4 second = high * PLAIT_SHUFFLE4(c, c, 2, 2, 3, 3) +
                          PLAIT_SHUFFLE4(high, high, 1, 0, 3, 2) * PLAIT_SHUFFLE4(s, -s, 6, 2, 7, 3);
        __builtin_memcpy(out + 2 * i, &first, sizeof first);
        __builtin_memcpy(out + 2 * i + 4, &second, sizeof second);
    }
    for (; i < pairs; ++i) {
        const float x = in[2 * i], y = in[2 * i + 1];
        out[2 * i] = x * cos[i] - y * sin[i];
        out[2 * i + 1] = x * sin[i] + y * cos[i];
    }
}

inline void rotate_halves(const float* in, const float* cos, const float* sin, float* out, int pairs) {
    for (int i = 0; i < pairs; ++i) {
        const float x = in[i], y = in[i + pairs];
        out[i] = x * cos[i] - y * sin[i];
        out[i + pairs] = x * sin[i] + y * cos[i];
    }
}

inline void rotate(const RotateArgs& a) {
    for (int h = 0; h < a.heads; ++h) {
        const float* in = a.in + h * a.head_dim;
        float* out = a.out + h * a.head_dim;
        if (a.layout == RopeLayout::Half) {
            rotate_halves(in, a.cos, a.sin, out, a.pairs);
        } else {
            rotate_interleaved(in, a.cos, a.sin, out, a.pairs);
        }
        for (int i = 2 * a.pairs; i < a.head_dim; ++i) out[i] = in[i];
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
