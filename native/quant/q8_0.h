// Q8_0: 32 weights; f16 scale, 32 signed bytes.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

struct Q8_0 {
    static constexpr int size = 32, bytes = 34;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in));
        const std::int8_t* q = reinterpret_cast<const std::int8_t*>(in + 2);
        for (int i = 0; i < size; ++i) out[i] = static_cast<float>(q[i]) * d;
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
