// The packed formats: how four inputs of one vector of columns are read from a tile (kernels/layout.h), and the scales
// of 32 inputs. packed_formats_256.h has the formats with blocks of 256.
#pragma once

#include "kernels/kernels.h"
#include "simd/bytes.h"

namespace plait::PLAIT_PATH {
namespace {

// How a packed format is read: four inputs of one vector of columns at a time (inlined, for which four is known then).
// `at` is the 32 inputs.
template <Format FORMAT>
struct Packed {
    static constexpr PackedBytes bytes = packed_bytes(FORMAT);
    static constexpr bool minimums = false;
    // Four bits of each input: i in the low half of a byte, i + 16 in the high half.
    [[gnu::always_inline]] static U read_4_bits(const std::uint8_t* at, int column, int quad) {
        const U both = load_lanes(at + 4 * (quad % 4 * kPackedColumns + column));
        return (quad < 4 ? both : both >> 4) & 0x0f0f0f0fu;
    }
    // Two bits of each: those of four inputs 8 apart in a byte, to the bit `to` of it.
    [[gnu::always_inline]] static U read_2_bits(const std::uint8_t* at, int column, int quad, int to) {
        const U four = load_lanes(at + 4 * (quad % 2 * kPackedColumns + column));
        return moved(four, to - quad / 2 * 2) & 0x03030303u << to;
    }
    // A bit of each: those of eight inputs 4 apart in a byte.
    [[gnu::always_inline]] static U read_1_bit(const std::uint8_t* at, int column, int quad, int to) {
        return moved(load_lanes(at + 4 * column), to - quad) & 0x01010101u << to;
    }
    [[gnu::always_inline]] static U read_5_bits(const std::uint8_t* at, int column, int quad) {
        return read_4_bits(at, column, quad) | read_1_bit(at + 16 * kPackedColumns, column, quad, 4);
    }
    [[gnu::always_inline]] static U moved(U bits, int left) { return left < 0 ? bits >> -left : bits << left; }
};

// Scales, and minimums behind them, of 32 inputs in half precision.
template <Format FORMAT>
struct PackedHalves : Packed<FORMAT> {
    static V scale(const std::uint8_t* at, int column) {
        return load_halves(at + packed_bytes(FORMAT).weights + 2 * column);
    }
    static V minimum(const std::uint8_t* at, int column) {
        return load_halves(at + packed_bytes(FORMAT).weights + 2 * kPackedColumns + 2 * column);
    }
};

struct PackedQ8_0 : PackedHalves<Format::Q8_0> {
    using Weights = ByteWeights;
    static std::int32_t start(const PanelBlock& x) { return ByteWeights::corrected ? x.less_128 : 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return load_lanes(at + 4 * (quad * kPackedColumns + column));
    }
};

struct PackedQ4_0 : PackedHalves<Format::Q4_0> {
    using Weights = SmallWeights<15>;
    static std::int32_t start(const PanelBlock& x) { return x.less_8; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_4_bits(at, column, quad);
    }
};

struct PackedQ4_1 : PackedHalves<Format::Q4_1> {
    using Weights = SmallWeights<15>;
    static constexpr bool minimums = true;
    static std::int32_t start(const PanelBlock&) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_4_bits(at, column, quad);
    }
};

struct PackedQ5_0 : PackedHalves<Format::Q5_0> {
    using Weights = SmallWeights<31>;
    static std::int32_t start(const PanelBlock& x) { return 2 * x.less_8; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_5_bits(at, column, quad);
    }
};

struct PackedQ5_1 : PackedHalves<Format::Q5_1> {
    using Weights = SmallWeights<31>;
    static constexpr bool minimums = true;
    static std::int32_t start(const PanelBlock&) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_5_bits(at, column, quad);
    }
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
    static std::int32_t start(const PanelBlock& x) { return ByteWeights::corrected ? x.less_128 : 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return look_up(kRaisedLevels.of, read_4_bits(at, column, quad));
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
