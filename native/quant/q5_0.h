// Q5_0: 32 weights; f16 scale, 32 fifth bits, 32 nibbles as in Q4_0; less 16.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

struct Q5_0 {
    static constexpr int size = 32, bytes = 22;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in));
        std::uint32_t high;  // bit i is the fifth bit of weight i
        __builtin_memcpy(&high, in + 2, sizeof high);
        const std::uint8_t* q = in + 6;
        for (int i = 0; i < 16; ++i) {
            const int low_half = (q[i] & 15) | static_cast<int>((high >> i & 1u) << 4);
            const int high_half = (q[i] >> 4) | static_cast<int>((high >> (16 + i) & 1u) << 4);
            out[i] = d * static_cast<float>(low_half - 16);
            out[16 + i] = d * static_cast<float>(high_half - 16);
        }
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
