// The packed formats: how four inputs of one vector of columns are read from a tile (kernels/layout.h), and the scales.
#pragma once

#include "kernels/kernels.h"
#include "simd/bytes.h"

namespace plait::PLAIT_PATH {
namespace {

// How a packed format is read: four inputs of one vector of columns at a time (inlined, for which four is known then);
// and its scale of the 32 inputs. With two parts each has a whole scale beside. `head` is what stands before the 256
// inputs, `at` the 32 inputs.
template <Format FORMAT>
struct Packed {
    static constexpr PackedBytes bytes = packed_bytes(FORMAT);
    static constexpr int parts = 1;
    static constexpr int minimums = 0;  // of 32 inputs
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
    static V scale(const std::uint8_t*, const std::uint8_t* at, int column) {
        return load_halves(at + packed_bytes(FORMAT).weights + 2 * column);
    }
    static V minimum(const std::uint8_t*, const std::uint8_t* at, int column, int) {
        return load_halves(at + packed_bytes(FORMAT).weights + 2 * kPackedColumns + 2 * column);
    }
};

// Scales and minimums in bytes, times a scale of theirs before each 256 inputs.
template <Format FORMAT>
struct PackedBytePairs : Packed<FORMAT> {
    static constexpr int minimums = 1;
    static V scale(const std::uint8_t* head, const std::uint8_t* at, int column) {
        return load_halves(head + 2 * column) * to_float(load_unsigned(at + packed_bytes(FORMAT).weights + column));
    }
    static V minimum(const std::uint8_t* head, const std::uint8_t* at, int column, int) {
        return load_halves(head + 2 * kPackedColumns + 2 * column) *
               to_float(load_unsigned(at + packed_bytes(FORMAT).weights + kPackedColumns + column));
    }
};

struct PackedQ8_0 : PackedHalves<Format::Q8_0> {
    using Weights = ByteWeights;
    static std::int32_t start(const PanelBlock& x, int) { return ByteWeights::corrected ? x.less_128 : 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return load_lanes(at + 4 * (quad * kPackedColumns + column));
    }
};

struct PackedQ4_0 : PackedHalves<Format::Q4_0> {
    using Weights = SmallWeights;
    static std::int32_t start(const PanelBlock& x, int) { return x.less_8; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_4_bits(at, column, quad);
    }
};

struct PackedQ4_1 : PackedHalves<Format::Q4_1> {
    using Weights = SmallWeights;
    static constexpr int minimums = 1;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_4_bits(at, column, quad);
    }
};

struct PackedQ5_0 : PackedHalves<Format::Q5_0> {
    using Weights = SmallWeights;
    static std::int32_t start(const PanelBlock& x, int) { return 2 * x.less_8; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_5_bits(at, column, quad);
    }
};

struct PackedQ5_1 : PackedHalves<Format::Q5_1> {
    using Weights = SmallWeights;
    static constexpr int minimums = 1;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
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
    static std::int32_t start(const PanelBlock& x, int) { return ByteWeights::corrected ? x.less_128 : 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return look_up(kRaisedLevels.of, read_4_bits(at, column, quad));
    }
};

struct PackedIQ4_XS : Packed<Format::IQ4_XS> {
    using Weights = ByteWeights;
    static std::int32_t start(const PanelBlock& x, int part) { return PackedIQ4_NL::start(x, part); }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return PackedIQ4_NL::read(at, column, quad);
    }
    static V scale(const std::uint8_t* head, const std::uint8_t* at, int column) {
        const std::ptrdiff_t block = (at - head - bytes.head) / bytes.weights;
        const std::uint8_t* scales = head + (2 + block) * kPackedColumns;
        return load_halves(head + 2 * column) * to_float(load_signed(scales + column));
    }
};

struct PackedQ4_K : PackedBytePairs<Format::Q4_K> {
    using Weights = SmallWeights;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_4_bits(at, column, quad);
    }
};

struct PackedQ5_K : PackedBytePairs<Format::Q5_K> {
    using Weights = SmallWeights;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_5_bits(at, column, quad);
    }
};

// Two scales for 32 inputs, whole numbers, times one in half precision.
struct PackedQ6_K : Packed<Format::Q6_K> {
    using Weights = SmallWeights;
    static constexpr int parts = 2;
    static std::int32_t start(const PanelBlock& x, int part) { return x.less_32[part]; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_4_bits(at, column, quad) | read_2_bits(at + 16 * kPackedColumns, column, quad, 4);
    }
    static I part_scale(const std::uint8_t* at, int column, int part) {
        return load_signed(at + bytes.weights + part * kPackedColumns + column);
    }
    static V scale(const std::uint8_t* head, const std::uint8_t*, int column) {
        return load_halves(head + 2 * column);
    }
};

// Weights of three and two bits are multiplied with their scale of 16 inputs as they are read: the product fits a byte.
// (w - 4) * s is between -124 and 128; it is read with 127 added.
struct PackedQ3_K : Packed<Format::Q3_K> {
    using Weights = ByteWeights;
    static std::int32_t start(const PanelBlock& x, int) {
        const std::int32_t sum = -(x.less_8 >> 3);
        return ByteWeights::corrected ? x.less_128 + sum : sum;
    }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        const U w = read_2_bits(at, column, quad, 0) | read_1_bit(at + 8 * kPackedColumns, column, quad, 2);
        const U scale = reinterpret_cast<U>(load_signed(at + bytes.weights + quad / 4 * kPackedColumns + column));
        return scaled_bytes(w, (scale & 0xffffu) | scale << 16, (127u - 4u * scale) * 0x01010101u);
    }
    static V scale(const std::uint8_t* head, const std::uint8_t*, int column) {
        return load_halves(head + 2 * column);
    }
};

struct PackedQ2_K : Packed<Format::Q2_K> {
    using Weights = SmallWeights;
    static constexpr int minimums = 2;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        const U scale = reinterpret_cast<U>(load_unsigned(pair(at, column, quad / 4))) & 15u;
        return scaled_bytes(read_2_bits(at, column, quad, 0), scale | scale << 16, U{});
    }
    static V scale(const std::uint8_t* head, const std::uint8_t*, int column) {
        return load_halves(head + 2 * column);
    }
    static V minimum(const std::uint8_t* head, const std::uint8_t* at, int column, int half) {
        const V of_minimums = load_halves(head + 2 * kPackedColumns + 2 * column);
        return of_minimums * to_float(load_unsigned(pair(at, column, half)) >> 4);
    }

  private:
    static const std::uint8_t* pair(const std::uint8_t* at, int column, int half) {
        return at + bytes.weights + half * kPackedColumns + column;
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
