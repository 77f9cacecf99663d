#include "program/pack_blocks.h"

namespace plait {
namespace {

using Bytes = const std::uint8_t*;

void put_half(std::uint8_t* out, int column, Bytes half) { std::memcpy(out + 2 * column, half, 2); }

// The tile has minimums with their sign turned: like a K format's, they are taken off.
void put_minimum(std::uint8_t* out, int column, Bytes half) {
    const std::uint8_t turned[] = {half[0], static_cast<std::uint8_t>(half[1] ^ 0x80)};
    put_half(out, column, turned);
}

// Byte i of the file is input i and, in its high half, input i + 16, as in the tile.
void put_4_bits(std::uint8_t* out, int column, Bytes in) {
    for (int quad = 0; quad < 4; ++quad) put(out, quad, column, four_at(in + 4 * quad));
}

// Bit i of the file is input i's; bit b of the tile's byte j input 4 b + j's.
void put_fifth_bits(std::uint8_t* out, int column, Bytes in) {
    const std::uint32_t bits = four_at(in);
    std::uint32_t turned = 0;
    for (int i = 0; i < 32; ++i) turned |= (bits >> i & 1u) << (i % 4 * 8 + i / 4);
    put(out + 16 * kPackedColumns, 0, column, turned);
}

void pack_q8_0(Bytes row, int block, int column, std::uint8_t*, std::uint8_t* out) {
    const Bytes in = row + block * 34;
    for (int quad = 0; quad < 8; ++quad) put(out, quad, column, four_at(in + 2 + 4 * quad) ^ 0x80808080u);
    put_half(out + 32 * kPackedColumns, column, in);
}

// IQ4_NL's block is alike.
void pack_q4_0(Bytes row, int block, int column, std::uint8_t*, std::uint8_t* out) {
    const Bytes in = row + block * 18;
    put_4_bits(out, column, in + 2);
    put_half(out + 16 * kPackedColumns, column, in);
}

void pack_q4_1(Bytes row, int block, int column, std::uint8_t*, std::uint8_t* out) {
    const Bytes in = row + block * 20;
    put_4_bits(out, column, in + 4);
    put_half(out + 16 * kPackedColumns, column, in);
    put_minimum(out + 18 * kPackedColumns, column, in + 2);
}

void pack_q5_0(Bytes row, int block, int column, std::uint8_t*, std::uint8_t* out) {
    const Bytes in = row + block * 22;
    put_4_bits(out, column, in + 6);
    put_fifth_bits(out, column, in + 2);
    put_half(out + 20 * kPackedColumns, column, in);
}

void pack_q5_1(Bytes row, int block, int column, std::uint8_t*, std::uint8_t* out) {
    const Bytes in = row + block * 24;
    put_4_bits(out, column, in + 8);
    put_fifth_bits(out, column, in + 4);
    put_half(out + 20 * kPackedColumns, column, in);
    put_minimum(out + 22 * kPackedColumns, column, in + 2);
}

}  // namespace

PackBlock packer_of_32(Format format) {
    switch (format) {
        case Format::Q8_0: return pack_q8_0;
        case Format::Q4_0:
        case Format::IQ4_NL: return pack_q4_0;
        case Format::Q4_1: return pack_q4_1;
        case Format::Q5_0: return pack_q5_0;
        case Format::Q5_1: return pack_q5_1;
        default: return nullptr;
    }
}

}  // namespace plait
