// Builds a path's table of kernels. Included by one translation unit per path (simd/*.cpp), which sets PLAIT_PATH.
#pragma once

#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/packed.h"
#include "kernels/rowwise.h"
#include "kernels/sampling.h"

namespace plait::PLAIT_PATH {
namespace {

constexpr Kernels make_table(const char* name) {
    return {
        .name = name,
        .dequantise = dequantise,
        .linear = linear,
        .gated = gated,
        .quantise = quantise,
        .linear_packed = linear_packed,
        .rms_norm = rms_norm,
        .layer_norm = layer_norm,
        .rotate = rotate,
        .attention = attention,
        .merge_attention = merge_attention,
        .store = store_kv,
        .load = load_kv,
        .add = add,
        .scale = scale,
        .softcap = softcap,
        .clamp = clamp,
        .softmax = softmax,
        .add_scaled = add_scaled,
        .exponential = exponential_row,
        .activate = activate,
        .scan_logits = scan_logits,
        .find_logit = find_logit,
        .gather_logits = gather_logits,
        .weigh_logits = weigh_logits,
        .weigh_doubles = weigh_doubles,
        .mask_logits = mask_logits,
    };
}

}  // namespace
}  // namespace plait::PLAIT_PATH
