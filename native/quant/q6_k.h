// Q6_K: 256 weights less 32 in 16 parts; low nibbles (64 bytes hold two runs of 64), high 2-bit pairs (32 bytes
// hold four runs of 32), sixteen signed 8-bit scales, f16 scale.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

struct Q6_K {
    static constexpr int size = 256, bytes = 210;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const std::uint8_t *low = in, *high = in + 128;
        const std::int8_t* scales = reinterpret_cast<const std::int8_t*>(in + 192);
        const float d = f16_to_f32(read_u16(in + 208));
        for (int part = 0; part < 16; ++part) {
            const float dl = d * static_cast<float>(scales[part]);
            const int half = part / 8, within = part % 8 * 16;  // of 128 weights each
            const std::uint8_t *low_source = low + half * 64 + within % 64,
                               *high_source = high + half * 32 + within % 32;
            const int low_shift = within / 64 * 4, high_shift = within / 32 * 2;
            for (int i = 0; i < 16; ++i) {
                const int weight = (low_source[i] >> low_shift & 15) | (high_source[i] >> high_shift & 3) << 4;
                out[part * 16 + i] = dl * static_cast<float>(weight - 32);
            }
        }
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
