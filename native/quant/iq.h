// IQ1, IQ2, IQ3 (quant/levels.h), TQ1_0, TQ2_0 and MXFP4 to float32. Every product of scales and level is exact.
#pragma once

#include "quant/block.h"
#include "quant/levels.h"

namespace plait::PLAIT_PATH {
namespace {

template <class L>
struct Levelled {
    static constexpr int size = 256, bytes = L::bytes;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(static_cast<std::uint16_t>(L::half(in))) * L::factor;
        LevelRun run;
        for (int part = 0; part < 8; ++part, out += 32) {
            L::read(in, part, run);
            for (int i = 0; i < 32; ++i) {
                out[i] = d * static_cast<float>(run.scale[i / 16]) * static_cast<float>(L::levels[run.index[i]]);
            }
        }
    }
};

template <int BYTES, void (*READ)(const std::uint8_t*, int, std::uint8_t (&)[32])>
struct Ternary {
    static constexpr int size = 256, bytes = BYTES;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = f16_to_f32(read_u16(in + BYTES - 2));
        std::uint8_t numbers[32];
        for (int part = 0; part < 8; ++part, out += 32) {
            READ(in, part, numbers);
            for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(numbers[i] - 1);
        }
    }
};
using TQ1_0 = Ternary<54, read_tq1_0>;
using TQ2_0 = Ternary<66, read_tq2_0>;

struct MXFP4 {
    static constexpr int size = 32, bytes = 17;
    static void dequantise(const std::uint8_t* __restrict in, float* __restrict out) {
        const float d = bf16_to_f32(mxfp4_scale(in[0]));
        for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>(kMxfp4Levels[in[1 + i] & 15]);
        for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>(kMxfp4Levels[in[1 + i] >> 4]);
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
