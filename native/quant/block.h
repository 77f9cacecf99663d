// What every block format offers: `size` weights in `bytes` bytes, and `dequantise`, which writes `size` floats. The
// order of float operations is that of GGUF's definition, so results equal numpy's bit for bit.
#pragma once

#include "simd/half.h"

namespace plait::PLAIT_PATH {
namespace {

template <class Block>
inline void dequantise_row(const std::uint8_t* __restrict in, float* __restrict out, int n) {
    for (int i = 0; i < n; i += Block::size, in += Block::bytes) Block::dequantise(in, out + i);
}

}  // namespace
}  // namespace plait::PLAIT_PATH
