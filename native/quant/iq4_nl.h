// IQ4_NL: 32 weights; f16 scale, 32 nibbles as in Q4_0, each an index into a fixed table.
#pragma once

#include "kernels/layout.h"
#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

inline float iq4_level(int index) { return static_cast<float>(kIq4Levels[index]); }

struct IQ4_NL {
    static constexpr int size = 32, bytes = 18;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in));
        const std::uint8_t* q = in + 2;
        for (int i = 0; i < 16; ++i) out[i] = d * iq4_level(q[i] & 15);
        for (int i = 0; i < 16; ++i) out[16 + i] = d * iq4_level(q[i] >> 4);
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
