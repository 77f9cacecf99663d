// Q3_K: 256 weights in 16 parts; 256 third bits, 2-bit weights as in Q2_K, sixteen 6-bit scales less 32, f16
// scale. A third bit that is clear takes 4 off.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

struct Q3_K {
    static constexpr int size = 256, bytes = 110;
    static int scale(const std::uint8_t* s, int part) {
        const int low = part < 8 ? s[part] & 15 : s[part - 8] >> 4;
        return (low | (s[8 + part % 4] >> part / 4 * 2 & 3) << 4) - 32;
    }
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const std::uint8_t *high = in, *q = in + 32, *scales = in + 96;
        const float d = f16_to_f32(read_u16(in + 108));
        for (int part = 0; part < 16; ++part) {
            const float dl = d * static_cast<float>(scale(scales, part));
            const std::uint8_t *source = q + part / 8 * 32 + part % 2 * 16, *third = high + part % 2 * 16;
            const int shift = part % 8 / 2 * 2, bit = part / 2;
            for (int i = 0; i < 16; ++i) {
                const int weight = (source[i] >> shift & 3) - ((third[i] >> bit & 1) ^ 1) * 4;
                out[part * 16 + i] = dl * static_cast<float>(weight);
            }
        }
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
