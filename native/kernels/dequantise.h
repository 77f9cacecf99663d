// Rows of weights to float32, whatever their format.
#pragma once

#include "kernels/kernels.h"
#include "quant/bf16.h"
#include "quant/f16.h"
#include "quant/f32.h"
#include "quant/iq.h"
#include "quant/iq4_nl.h"
#include "quant/iq4_xs.h"
#include "quant/q2_k.h"
#include "quant/q3_k.h"
#include "quant/q4_0.h"
#include "quant/q4_1.h"
#include "quant/q4_k.h"
#include "quant/q5_0.h"
#include "quant/q5_1.h"
#include "quant/q5_k.h"
#include "quant/q6_k.h"
#include "quant/q8_0.h"

namespace plait::PLAIT_PATH {
namespace {

inline void dequantise(const Matrix& weight, std::int64_t row, float* out) {
    const std::uint8_t* in = weight.data + static_cast<std::size_t>(row) * weight.row_bytes;
    const int n = weight.columns;
    switch (weight.format) {
        case Format::F32: return dequantise_row<F32>(in, out, n);
        case Format::F16: return dequantise_row<F16>(in, out, n);
        case Format::BF16: return dequantise_row<BF16>(in, out, n);
        case Format::Q8_0: return dequantise_row<Q8_0>(in, out, n);
        case Format::Q4_0: return dequantise_row<Q4_0>(in, out, n);
        case Format::Q4_1: return dequantise_row<Q4_1>(in, out, n);
        case Format::Q5_0: return dequantise_row<Q5_0>(in, out, n);
        case Format::Q5_1: return dequantise_row<Q5_1>(in, out, n);
        case Format::Q2_K: return dequantise_row<Q2_K>(in, out, n);
        case Format::Q3_K: return dequantise_row<Q3_K>(in, out, n);
        case Format::Q4_K: return dequantise_row<Q4_K>(in, out, n);
        case Format::Q5_K: return dequantise_row<Q5_K>(in, out, n);
        case Format::Q6_K: return dequantise_row<Q6_K>(in, out, n);
        case Format::IQ4_NL: return dequantise_row<IQ4_NL>(in, out, n);
        case Format::IQ4_XS: return dequantise_row<IQ4_XS>(in, out, n);
        case Format::IQ1_S: return dequantise_row<Levelled<Iq1S>>(in, out, n);
        case Format::IQ1_M: return dequantise_row<Levelled<Iq1M>>(in, out, n);
        case Format::IQ2_XXS: return dequantise_row<Levelled<Iq2Xxs>>(in, out, n);
        case Format::IQ2_XS: return dequantise_row<Levelled<Iq2Xs>>(in, out, n);
        case Format::IQ2_S: return dequantise_row<Levelled<Iq2S>>(in, out, n);
        case Format::IQ3_XXS: return dequantise_row<Levelled<Iq3Xxs>>(in, out, n);
        case Format::IQ3_S: return dequantise_row<Levelled<Iq3S>>(in, out, n);
        case Format::TQ1_0: return dequantise_row<TQ1_0>(in, out, n);
        case Format::TQ2_0: return dequantise_row<TQ2_0>(in, out, n);
        case Format::MXFP4: return dequantise_row<MXFP4>(in, out, n);
    }
}

}  // namespace
}  // namespace plait::PLAIT_PATH
