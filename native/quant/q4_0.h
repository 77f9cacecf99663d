// Q4_0: 32 weights; f16 scale, 32 nibbles less 8, the first half of the block in the low ones.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

struct Q4_0 {
    static constexpr int size = 32, bytes = 18;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in));
        const std::uint8_t* q = in + 2;
        for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>((q[i] & 15) - 8);
        for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>((q[i] >> 4) - 8);
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
