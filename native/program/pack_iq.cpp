#include "program/pack_blocks.h"
#include "quant/levels.h"

namespace plait {
namespace {

using Bytes = const std::uint8_t*;

void put_16_bits(std::uint8_t* out, int column, unsigned bits) {
    const std::uint8_t both[] = {static_cast<std::uint8_t>(bits), static_cast<std::uint8_t>(bits >> 8)};
    std::memcpy(out + 2 * column, both, 2);
}

// Indices of levels: i in the low half of a byte, i + 16 in the high half.
template <class L>
void pack_levels(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out, bool halves) {
    const Bytes in = row + block / 8 * L::bytes;
    const int part = block % 8;
    LevelRun run;
    L::read(in, part, run);
    for (int quad = 0; quad < 4; ++quad) {
        put(out, quad, column, four_at(run.index + 4 * quad) | four_at(run.index + 16 + 4 * quad) << 4);
    }
    if (halves) {
        for (int i = 0; i < 2; ++i) out[(16 + i) * kPackedColumns + column] = static_cast<std::uint8_t>(run.scale[i]);
    } else {
        head[(2 + part) * kPackedColumns + column] = static_cast<std::uint8_t>(run.scale[0]);
    }
    if (part == 0) put_16_bits(head, column, L::half(in));
}

template <class L>
void pack_whole(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    pack_levels<L>(row, block, column, head, out, false);
}

template <class L>
void pack_halves(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    pack_levels<L>(row, block, column, head, out, true);
}

// As Q2_K, with scales and minimums of 1, and d for both: d q - d.
template <int BYTES, void (*READ)(Bytes, int, std::uint8_t (&)[32])>
void pack_ternary(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    const Bytes in = row + block / 8 * BYTES;
    std::uint8_t numbers[32];
    READ(in, block % 8, numbers);
    for (int i = 0; i < 2; ++i) {
        std::uint32_t fours = 0;
        for (int place = 0; place < 4; ++place) fours |= four_at(numbers + 8 * place + 4 * i) << 2 * place;
        put(out, i, column, fours);
    }
    std::memset(out + 8 * kPackedColumns + 2 * column, 0x11, 2);
    if (block % 8 != 0) return;
    std::memcpy(head + 2 * column, in + BYTES - 2, 2);
    std::memcpy(head + 2 * (kPackedColumns + column), in + BYTES - 2, 2);
}

void pack_mxfp4(Bytes row, int block, int column, std::uint8_t*, std::uint8_t* out) {
    const Bytes in = row + block * 17;
    for (int quad = 0; quad < 4; ++quad) put(out, quad, column, four_at(in + 1 + 4 * quad));
    put_16_bits(out + 16 * kPackedColumns, column, mxfp4_scale(in[0]));
}

}  // namespace

PackBlock packer_of_iq(Format format) {
    switch (format) {
        case Format::IQ1_S: return pack_whole<Iq1S>;
        case Format::IQ1_M: return pack_halves<Iq1M>;
        case Format::IQ2_XXS: return pack_whole<Iq2Xxs>;
        case Format::IQ2_XS: return pack_halves<Iq2Xs>;
        case Format::IQ2_S: return pack_halves<Iq2S>;
        case Format::IQ3_XXS: return pack_whole<Iq3Xxs>;
        case Format::IQ3_S: return pack_whole<Iq3S>;
        case Format::TQ1_0: return pack_ternary<54, read_tq1_0>;
        case Format::TQ2_0: return pack_ternary<66, read_tq2_0>;
        case Format::MXFP4: return pack_mxfp4;
        default: return nullptr;
    }
}

}  // namespace plait
