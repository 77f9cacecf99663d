// Rows of K and V in their number types and back (see kernels/kv_layout.h), and vectors of them in registers.
#pragma once

#include "kernels/kv_layout.h"
#include "quant/q8_0.h"
#include "simd/bytes.h"

namespace plait::PLAIT_PATH {
namespace {

// The definition is that of formats/quant: scale max|x| / 127, halves away from zero. A block with a number that is
// none gets a NaN scale, so all of it reads as NaN.
inline void store_q8_0(const float* __restrict in, std::uint8_t* __restrict out) {
    float largest = 0.0f, nothing = 0.0f;
    for (int i = 0; i < kKvBlock; ++i) {
        const float magnitude = float_of(bits_of(in[i]) & 0x7fffffffu);
        largest = magnitude > largest ? magnitude : largest;
        nothing += in[i] * 0.0f;
    }
    const float d = largest / 127.0f + nothing;
    float inverse = 1.0f / d;
    inverse = inverse <= 3.40282347e38f ? inverse : 0.0f;
    write_u16(out, f32_to_f16(d));
    for (int i = 0; i < kKvBlock; ++i) {
        const float scaled = in[i] * inverse;
        const float magnitude = float_of(bits_of(scaled) & 0x7fffffffu);
        const std::int32_t whole = static_cast<std::int32_t>(magnitude <= 127.5f ? magnitude : 0.0f);
        const std::int32_t rounded = whole + (magnitude - static_cast<float>(whole) >= 0.5f ? 1 : 0);
        out[2 + i] = static_cast<std::uint8_t>(scaled < 0.0f ? -rounded : rounded);
    }
}

// n numbers; for Q8_0 whole blocks.
inline void store_kv(KvType type, const float* in, std::uint8_t* out, int n) {
    switch (type) {
        case KvType::F32: __builtin_memcpy(out, in, static_cast<std::size_t>(n) * sizeof(float)); return;
        case KvType::F16: return f32_row_to_f16(in, out, n);
        case KvType::BF16: return f32_row_to_bf16(in, out, n);
        case KvType::Q8_0:
            for (int i = 0; i < n; i += kKvBlock, out += kKvBlockBytes) store_q8_0(in + i, out);
    }
}

inline void load_kv(KvType type, const std::uint8_t* in, float* out, int n) {
    switch (type) {
        case KvType::F32: __builtin_memcpy(out, in, static_cast<std::size_t>(n) * sizeof(float)); return;
        case KvType::F16: return f16_row_to_f32(in, out, n);
        case KvType::BF16: return bf16_row_to_f32(in, out, n);
        case KvType::Q8_0: return dequantise_row<Q8_0>(in, out, n);
    }
}

// The number types, a vector at a time.
struct Singles {
    static constexpr std::size_t bytes = 4;
    static V read(const std::uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
};
struct Halves {
    static constexpr std::size_t bytes = 2;
    static V read(const std::uint8_t* p) { return load_halves(p); }
};
struct Brains {
    static constexpr std::size_t bytes = 2;
    static V read(const std::uint8_t* p) { return load_brains(p); }
};

// One dimension after the other of kWidth neighbouring keys. `span` is how many come from one start().
template <class Number>
struct PlainKeys {
    static constexpr std::size_t bytes = Number::bytes;
    const std::uint8_t* at;
    std::size_t step;
    PlainKeys() = default;
    PlainKeys(const std::uint8_t* panel, std::size_t stride, std::size_t slot)
        : at(panel + slot * Number::bytes), step(stride * Number::bytes) {}
    static int span(int dim) { return dim; }
    void start() {}
    V next() {
        const V v = Number::read(at);
        at += step;
        return v;
    }
};

struct ScaledKeys {
    static constexpr std::size_t bytes = 1;  // all but the scales
    const std::uint8_t *block, *at;
    std::size_t stride, slot;
    V scale;
    ScaledKeys() = default;
    ScaledKeys(const std::uint8_t* panel, std::size_t stride, std::size_t slot)
        : block(panel), stride(stride), slot(slot) {}
    static int span(int) { return kKvBlock; }
    void start() {
        scale = load_halves(block + 2 * slot);
        at = block + 2 * stride + slot;
        block += kKvBlockBytes * stride;
    }
    V next() {
        const V v = to_float(load_signed(at)) * scale;
        at += stride;
        return v;
    }
};

// Dimensions d..d+kWidth-1 of one key.
template <class Number>
struct PlainValues {
    static constexpr std::size_t bytes = Number::bytes;
    static V read(const std::uint8_t* row, int d) { return Number::read(row + static_cast<std::size_t>(d) * Number::bytes); }
};

struct ScaledValues {
    static constexpr std::size_t bytes = 1;
    static V read(const std::uint8_t* row, int d) {
        const std::uint8_t* block = row + d / kKvBlock * kKvBlockBytes;
        return to_float(load_signed(block + 2 + d % kKvBlock)) * broadcast(f16_to_f32(read_u16(block)));
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
