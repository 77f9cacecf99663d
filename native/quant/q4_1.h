// Q4_1: 32 weights; f16 scale and minimum, 32 nibbles, the first half of the block in the low ones.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

struct Q4_1 {
    static constexpr int size = 32, bytes = 20;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in)), m = f16_to_f32(read_u16(in + 2));
        const std::uint8_t* q = in + 4;
        for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>(q[i] & 15) + m;
        for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>(q[i] >> 4) + m;
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
