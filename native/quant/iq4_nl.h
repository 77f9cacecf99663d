// IQ4_NL: 32 weights; f16 scale, 32 nibbles as in Q4_0, each an index into a fixed table.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

constexpr float kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct IQ4_NL {
    static constexpr int size = 32, bytes = 18;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in));
        const std::uint8_t* q = in + 2;
        for (int i = 0; i < 16; ++i) out[i] = d * kIq4Values[q[i] & 15];
        for (int i = 0; i < 16; ++i) out[16 + i] = d * kIq4Values[q[i] >> 4];
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
