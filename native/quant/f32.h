// F32: float32 as it is.
#pragma once

#include "quant/block.h"

namespace plait::PLAIT_PATH {
namespace {

struct F32 {
    static constexpr int size = 1, bytes = 4;
};

template <>
inline void dequantise_row<F32>(const std::uint8_t* __restrict in, float* __restrict out, int n) {
    __builtin_memcpy(out, in, static_cast<std::size_t>(n) * sizeof(float));
}

}  // namespace
}  // namespace plait::PLAIT_PATH
