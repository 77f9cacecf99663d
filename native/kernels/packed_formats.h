// The packed formats: how four inputs of one vector of columns are read from a tile (kernels/layout.h), and the scales.
#pragma once

#include "kernels/kernels.h"
#include "simd/bytes.h"

namespace plait::PLAIT_PATH {
namespace {

// How a packed format is read: four inputs of one vector of columns at a time (inlined, for which four is known then);
// and its scales, of `parts` parts of the
// 32 inputs. `head` is what stands before the 256 inputs, `at` the 32 inputs, both from the vector's columns on.
template <Format FORMAT>
struct Packed {
    static constexpr PackedBytes bytes = packed_bytes(FORMAT);
    static constexpr int parts = 1;
    static constexpr bool minimums = false;
    // Four bits of each input: i in the low half of a byte, i + 16 in the high half.
    [[gnu::always_inline]] static U read_4_bits(const std::uint8_t* at, int quad) {
        const U both = load_lanes(at + quad % 4 * 4 * kPackedColumns);
        return (quad < 4 ? both : both >> 4) & 0x0f0f0f0fu;
    }
    // With the fifth bits of eight inputs 4 apart in a byte, behind those.
    [[gnu::always_inline]] static U read_5_bits(const std::uint8_t* at, int quad) {
        const U fifth = load_lanes(at + 16 * kPackedColumns);
        return read_4_bits(at, quad) | ((quad < 4 ? fifth << (4 - quad) : fifth >> (quad - 4)) & 0x10101010u);
    }
};

// Scales, and minimums behind them, of 32 inputs in half precision.
template <Format FORMAT>
struct PackedHalves : Packed<FORMAT> {
    static V scale(const std::uint8_t*, const std::uint8_t* at, int column, int) {
        return load_halves(at + packed_bytes(FORMAT).weights + 2 * column);
    }
    static V minimum(const std::uint8_t*, const std::uint8_t* at, int column) {
        return load_halves(at + packed_bytes(FORMAT).weights + 2 * kPackedColumns + 2 * column);
    }
};

// Scales and minimums in bytes, times a scale of theirs before each 256 inputs.
template <Format FORMAT>
struct PackedBytePairs : Packed<FORMAT> {
    static constexpr bool minimums = true;
    static V scale(const std::uint8_t* head, const std::uint8_t* at, int column, int) {
        return load_halves(head + 2 * column) * load_unsigned(at + packed_bytes(FORMAT).weights + column);
    }
    static V minimum(const std::uint8_t* head, const std::uint8_t* at, int column) {
        return load_halves(head + 2 * kPackedColumns + 2 * column) *
               load_unsigned(at + packed_bytes(FORMAT).weights + kPackedColumns + column);
    }
};

struct PackedQ8_0 : PackedHalves<Format::Q8_0> {
    using Weights = ByteWeights;
    static std::int32_t start(const PanelBlock& x, int) { return ByteWeights::corrected ? x.less_128 : 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) {
        return load_lanes(at + quad * 4 * kPackedColumns);
    }
};

struct PackedQ4_0 : PackedHalves<Format::Q4_0> {
    using Weights = SmallWeights;
    static std::int32_t start(const PanelBlock& x, int) { return x.less_8; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) { return read_4_bits(at, quad); }
};

struct PackedQ4_1 : PackedHalves<Format::Q4_1> {
    using Weights = SmallWeights;
    static constexpr bool minimums = true;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) { return read_4_bits(at, quad); }
};

struct PackedQ5_0 : PackedHalves<Format::Q5_0> {
    using Weights = SmallWeights;
    static std::int32_t start(const PanelBlock& x, int) { return 2 * x.less_8; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) { return read_5_bits(at, quad); }
};

struct PackedQ5_1 : PackedHalves<Format::Q5_1> {
    using Weights = SmallWeights;
    static constexpr bool minimums = true;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) { return read_5_bits(at, quad); }
};

// The levels as ByteWeights take them.
struct RaisedLevels {
    std::uint8_t of[16];
    constexpr RaisedLevels() : of() {
        for (int i = 0; i < 16; ++i) of[i] = static_cast<std::uint8_t>(kIq4Levels[i] + 128);
    }
};
constexpr RaisedLevels kRaisedLevels;

struct PackedIQ4_NL : PackedHalves<Format::IQ4_NL> {
    using Weights = ByteWeights;
    static std::int32_t start(const PanelBlock& x, int) { return ByteWeights::corrected ? x.less_128 : 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) {
        return look_up(kRaisedLevels.of, read_4_bits(at, quad));
    }
};

struct PackedIQ4_XS : Packed<Format::IQ4_XS> {
    using Weights = ByteWeights;
    static std::int32_t start(const PanelBlock& x, int part) { return PackedIQ4_NL::start(x, part); }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) { return PackedIQ4_NL::read(at, quad); }
    static V scale(const std::uint8_t* head, const std::uint8_t* at, int column, int) {
        const std::uint8_t* scales = head + 2 * kPackedColumns + (at - head - bytes.head) / bytes.weights * kPackedColumns;
        return load_halves(head + 2 * column) * load_signed(scales + column);
    }
};

struct PackedQ4_K : PackedBytePairs<Format::Q4_K> {
    using Weights = SmallWeights;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) { return read_4_bits(at, quad); }
};

struct PackedQ5_K : PackedBytePairs<Format::Q5_K> {
    using Weights = SmallWeights;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) { return read_5_bits(at, quad); }
};

struct PackedQ6_K : Packed<Format::Q6_K> {
    using Weights = SmallWeights;
    static constexpr int parts = 2;
    static std::int32_t start(const PanelBlock& x, int part) { return x.less_32[part]; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int quad) {
        const U high = load_lanes(at + 16 * kPackedColumns + quad % 2 * 4 * kPackedColumns);
        const int pair = quad / 2;
        const U two = pair == 0 ? high << 4 : pair == 1 ? high << 2 : pair == 2 ? high : high >> 2;
        return read_4_bits(at, quad) | (two & 0x30303030u);
    }
    static V scale(const std::uint8_t* head, const std::uint8_t* at, int column, int part) {
        return load_halves(head + 2 * column) * load_signed(at + bytes.weights + part * kPackedColumns + column);
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
