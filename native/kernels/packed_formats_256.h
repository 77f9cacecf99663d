// The packed formats of 256 inputs (kernels/layout.h): scales and minimums are whole numbers, times one in half
// precision. A sum times its scale is below 2^24 (at most 32 x 127 x 127 x 32), so exact in float32.
#pragma once

#include "kernels/packed_formats.h"

namespace plait::PLAIT_PATH {
namespace {

// Which whole minimums there are: none; one for each 32 inputs, in pairs in the head; one for each 16.
enum class Minimums { None, Of32, Of16 };

// `head` is what stands before the 256 inputs, `at` a block of 32. `parts` is how often its sum is scaled: not at all
// where the weights that `read` gives are scaled already, for each 32 inputs or each 16. A sum begins at `start`.
template <Format FORMAT>
struct Packed256 : Packed<FORMAT> {
    using Packed<FORMAT>::bytes;
    static constexpr int parts = 1;
    static constexpr Minimums minimums = Minimums::None;
    static std::int32_t start(const PanelBlock&, int) { return 0; }
    static V scale(const std::uint8_t* head, int column) { return load_halves(head + 2 * column); }
    static V scale_of_minimums(const std::uint8_t* head, int column) {
        return load_halves(head + 2 * (kPackedColumns + column));
    }
};

struct PackedIQ4_XS : Packed256<Format::IQ4_XS> {
    using Weights = ByteWeights;
    static std::int32_t start(const PanelBlock& x, int) { return PackedIQ4_NL::start(x); }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return PackedIQ4_NL::read(at, column, quad);
    }
    static I part_scale(const std::uint8_t* head, const std::uint8_t*, int column, int block, int) {
        return load_signed(head + (2 + block) * kPackedColumns + column);
    }
};

template <Format FORMAT, int MOST>
struct PackedPairs : Packed256<FORMAT> {
    using Weights = SmallWeights<MOST>;
    static constexpr Minimums minimums = Minimums::Of32;
    static I part_scale(const std::uint8_t* head, const std::uint8_t*, int column, int block, int) {
        return load_unsigned(head + (4 + block) * kPackedColumns + column);
    }
    static S minimum_pairs(const std::uint8_t* head, int column, int pair) {
        return load_unsigned_16(head + (12 + 2 * pair) * kPackedColumns + 2 * column);
    }
};

struct PackedQ4_K : PackedPairs<Format::Q4_K, 15> {
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_4_bits(at, column, quad);
    }
};

struct PackedQ5_K : PackedPairs<Format::Q5_K, 31> {
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_5_bits(at, column, quad);
    }
};

struct PackedQ6_K : Packed256<Format::Q6_K> {
    using Weights = SmallWeights<63>;
    static constexpr int parts = 2;
    static std::int32_t start(const PanelBlock& x, int part) { return x.less_32[part]; }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        return read_4_bits(at, column, quad) | read_2_bits(at + 16 * kPackedColumns, column, quad, 4);
    }
    static I part_scale(const std::uint8_t*, const std::uint8_t* at, int column, int, int part) {
        return load_signed(at + bytes.weights + part * kPackedColumns + column);
    }
};

// Weights of three and two bits are multiplied with their scale of 16 inputs as they are read: the product fits a byte.
// (w - 4) * s is between -124 and 128; it is read with 127 added.
struct PackedQ3_K : Packed256<Format::Q3_K> {
    using Weights = ByteWeights;
    static constexpr int parts = 0;
    static std::int32_t start(const PanelBlock& x, int) {
        const std::int32_t sum = -(x.less_8 >> 3);
        return ByteWeights::corrected ? x.less_128 + sum : sum;
    }
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        const U w = read_2_bits(at, column, quad, 0) | read_1_bit(at + 8 * kPackedColumns, column, quad, 2);
        const U scale = reinterpret_cast<U>(load_signed(at + bytes.weights + quad / 4 * kPackedColumns + column));
        return scaled_bytes(w, (scale & 0xffffu) | scale << 16, (127u - 4u * scale) * 0x01010101u);
    }
};

struct PackedQ2_K : Packed256<Format::Q2_K> {
    using Weights = SmallWeights<45>;
    static constexpr int parts = 0;
    static constexpr Minimums minimums = Minimums::Of16;
    [[gnu::always_inline]] static U read(const std::uint8_t* at, int column, int quad) {
        const U both = reinterpret_cast<U>(halves(at, column)) & 0x000f000fu;
        const U scale = quad < 4 ? (both & 0xffffu) | both << 16 : (both & 0xffff0000u) | both >> 16;
        return scaled_bytes(read_2_bits(at, column, quad, 0), scale, U{});
    }
    static S minimum_pairs(const std::uint8_t* at, int column) {
        return reinterpret_cast<S>(reinterpret_cast<U>(halves(at, column)) >> 4 & 0x000f000fu);
    }

  private:
    static S halves(const std::uint8_t* at, int column) {
        return load_unsigned_16(at + bytes.weights + 2 * column);
    }
};

}  // namespace
}  // namespace plait::PLAIT_PATH
