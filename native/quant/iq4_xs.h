// IQ4_XS: 256 weights in 8 parts of 32, each as in IQ4_NL; f16 scale, eight 6-bit scales less 32 (high 2 bits in 2
// bytes, low nibbles in 4).
#pragma once

#include "quant/iq4_nl.h"

namespace plait::PLAIT_PATH {
namespace {

struct IQ4_XS {
    static constexpr int size = 256, bytes = 136;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in));
        const int high = read_u16(in + 2);
        for (int part = 0; part < 8; ++part) {
            const int scale = ((in[4 + part / 2] >> part % 2 * 4 & 15) | (high >> 2 * part & 3) << 4) - 32;
            const float dl = d * static_cast<float>(scale);
            const std::uint8_t* q = in + 8 + part * 16;
            for (int i = 0; i < 16; ++i) out[part * 32 + i] = dl * iq4_level(q[i] & 15);
            for (int i = 0; i < 16; ++i) out[part * 32 + 16 + i] = dl * iq4_level(q[i] >> 4);
        }
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
