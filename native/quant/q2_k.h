// Q2_K: 256 weights in 16 parts; a byte for each part (scale low, minimum high), 2-bit weights of which four parts
// of 32 share 32 bytes, f16 scale of the scales and of the minimums.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

struct Q2_K {
    static constexpr int size = 256, bytes = 84;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const std::uint8_t *scales = in, *q = in + 16;
        const float d = f16_to_f32(read_u16(in + 80)), dmin = f16_to_f32(read_u16(in + 82));
        for (int part = 0; part < 16; ++part) {
            const float dl = d * static_cast<float>(scales[part] & 15),
                        ml = dmin * static_cast<float>(scales[part] >> 4);
            const std::uint8_t* source = q + part / 8 * 32 + part % 2 * 16;
            const int shift = part % 8 / 2 * 2;
            for (int i = 0; i < 16; ++i) out[part * 16 + i] = dl * static_cast<float>(source[i] >> shift & 3) - ml;
        }
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
