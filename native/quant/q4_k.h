// Q4_K: 256 weights in 8 parts; f16 scale of the scales and of the minimums, eight 6-bit scales and minimums in 12
// bytes, nibbles of which two parts share 32 bytes.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

// Scale and minimum number `part`, of 6 bits each; Q5_K has the same 12 bytes.
inline void scale_and_minimum(const std::uint8_t* s, int part, int* scale, int* minimum) {
    if (part < 4) {
        *scale = s[part] & 63;
        *minimum = s[part + 4] & 63;
    } else {
        *scale = (s[part + 4] & 15) | s[part - 4] >> 6 << 4;
        *minimum = s[part + 4] >> 4 | s[part] >> 6 << 4;
    }
}

struct Q4_K {
    static constexpr int size = 256, bytes = 144;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in)), dmin = f16_to_f32(read_u16(in + 2));
        const std::uint8_t* q = in + 16;
        for (int part = 0; part < 8; ++part) {
            int scale, minimum;
            scale_and_minimum(in + 4, part, &scale, &minimum);
            const float dl = d * static_cast<float>(scale), ml = dmin * static_cast<float>(minimum);
            const int shift = part % 2 * 4;
            const std::uint8_t* source = q + part / 2 * 32;
            for (int i = 0; i < 32; ++i) out[part * 32 + i] = dl * static_cast<float>(source[i] >> shift & 15) - ml;
        }
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
