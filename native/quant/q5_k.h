// Q5_K: as Q4_K, with 256 fifth bits, part p's in bit p of 32 bytes.
#pragma once

#include "quant/q4_k.h"

namespace plait::PLAIT_PATH {
namespace {

struct Q5_K {
    static constexpr int size = 256, bytes = 176;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in)), dmin = f16_to_f32(read_u16(in + 2));
        const std::uint8_t *high = in + 16, *q = in + 48;
        for (int part = 0; part < 8; ++part) {
            int scale, minimum;
            scale_and_minimum(in + 4, part, &scale, &minimum);
            const float dl = d * static_cast<float>(scale), ml = dmin * static_cast<float>(minimum);
            const int shift = part % 2 * 4;
            const std::uint8_t* source = q + part / 2 * 32;
            for (int i = 0; i < 32; ++i) {
                const int weight = (source[i] >> shift & 15) | (high[i] >> part & 1) << 4;
                out[part * 32 + i] = dl * static_cast<float>(weight) - ml;
            }
        }
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
