// F16: IEEE half precision.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

struct F16 {
    static constexpr int size = 1, bytes = 2;
};

template <>
inline void dequantise_row<F16>(const std::uint8_t* __restrict in, float* __restrict out, int n) {
    f16_row_to_f32(in, out, n);
}

}  // namespace
}  // namespace plait::PLAIT_PATH
