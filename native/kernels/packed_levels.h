// The packed formats whose weights are levels of a table (quant/levels.h): IQ1, IQ2, IQ3 and MXFP4.
#pragma once

#include "kernels/packed_formats_256.h"
#include "quant/levels.h"

namespace plait::PLAIT_PATH {
namespace {

// Levels as ByteWeights take them.
template <const std::int8_t (&LEVELS)[16]>
struct RaisedTable {
    std::uint8_t of[16];
    constexpr RaisedTable() : of() {
        for (int i = 0; i < 16; ++i) of[i] = static_cast<std::uint8_t>(LEVELS[i] + 128);
    }
};
template <const std::int8_t (&LEVELS)[16]>
constexpr RaisedTable<LEVELS> kRaisedTable;

// 32 times 127 times the largest level, 62, and scale, 31, is below 2^24: exact in float32.
template <Format FORMAT, class L>
struct PackedLevels : Packed256<FORMAT> {
    using Weights = ByteWeights;
    using Packed256<FORMAT>::bytes;
    static constexpr int parts = bytes.scales == 0 ? 1 : 2;
    static std::int32_t start(const PanelBlock& x, int part) {
        if (!ByteWeights::corrected) return 0;
        return parts == 1 ? x.less_128 : 4 * x.less_32[part];
    }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return look_up(kRaisedTable<L::levels>.of, Packed<FORMAT>::read_4_bits(at, column, quad));
    }
    static I part_scale(const std::uint8_t* head, const std::uint8_t* at, int column, int block, int part) {
        if constexpr (parts == 1) return load_signed(head + (2 + block) * kPackedColumns + column);
        return load_signed(at + bytes.weights + part * kPackedColumns + column);
    }
    static V scale(const std::uint8_t* head, int column) { return load_halves(head + 2 * column) * L::factor; }
};

// Each serves all formats of its levels and number of scales.
using PackedIQ12 = PackedLevels<Format::IQ2_XXS, Iq2Xxs>;
using PackedIQ12Halves = PackedLevels<Format::IQ2_XS, Iq2Xs>;
using PackedIQ3_XXS = PackedLevels<Format::IQ3_XXS, Iq3Xxs>;
using PackedIQ3_S = PackedLevels<Format::IQ3_S, Iq3S>;

struct PackedMXFP4 : PackedHalves<Format::MXFP4> {
    using Weights = ByteWeights;
    static std::int32_t start(const PanelBlock& x) { return ByteWeights::corrected ? x.less_128 : 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return look_up(kRaisedTable<kMxfp4Levels>.of, read_4_bits(at, column, quad));
    }
    static V scale(const std::uint8_t* at, int column) { return load_bfloats(at + bytes.weights + 2 * column); }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
