#include "program/pack_blocks.h"

namespace plait {
namespace {

using Bytes = const std::uint8_t*;

// Number `part` of Q4_K's and Q5_K's eight scales and minimums in 12 bytes, as bytes in the head; see quant/q4_k.h.
void put_scale_and_minimum(std::uint8_t* head, int column, Bytes scales, int part) {
    int scale, minimum;
    if (part < 4) {
        scale = scales[part] & 63;
        minimum = scales[part + 4] & 63;
    } else {
        scale = (scales[part + 4] & 15) | scales[part - 4] >> 6 << 4;
        minimum = scales[part + 4] >> 4 | scales[part] >> 6 << 4;
    }
    head[(4 + part) * kPackedColumns + column] = static_cast<std::uint8_t>(scale);
    head[(12 + part / 2 * 2) * kPackedColumns + 2 * column + part % 2] = static_cast<std::uint8_t>(minimum);
}

void put_heads(std::uint8_t* head, int column, Bytes in) {
    std::memcpy(head + 2 * column, in, 2);
    std::memcpy(head + 2 * kPackedColumns + 2 * column, in + 2, 2);
}

// 32 inputs, each in half of a byte, shifted by so much.
void put_4_bits(std::uint8_t* out, int column, Bytes in, int shift) {
    for (int quad = 0; quad < 4; ++quad) {
        const std::uint32_t low = four_at(in + 4 * quad) >> shift & 0x0f0f0f0fu;
        const std::uint32_t high = four_at(in + 16 + 4 * quad) >> shift & 0x0f0f0f0fu;
        put(out, quad, column, low | high << 4);
    }
}

// Bit `shift` of 32 bytes, those of eight inputs 4 apart to a byte.
void put_1_bit(std::uint8_t* out, int column, Bytes in, int shift) {
    std::uint32_t bits = 0;
    for (int quad = 0; quad < 8; ++quad) bits |= (four_at(in + 4 * quad) >> shift & 0x01010101u) << quad;
    put(out, 0, column, bits);
}

// Two bits of 32 bytes, those of four inputs 8 apart to a byte.
void put_2_bits(std::uint8_t* out, int column, Bytes in, int shift) {
    std::uint32_t twos[2] = {};
    for (int quad = 0; quad < 8; ++quad) {
        twos[quad % 2] |= (four_at(in + 4 * quad) >> shift & 0x03030303u) << quad / 2 * 2;
    }
    for (int i = 0; i < 2; ++i) put(out, i, column, twos[i]);
}

void pack_q4_k(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    const Bytes in = row + block / 8 * 144;
    const int part = block % 8;
    put_4_bits(out, column, in + 16 + part / 2 * 32, part % 2 * 4);
    put_scale_and_minimum(head, column, in + 4, part);
    if (part == 0) put_heads(head, column, in);
}

void pack_q5_k(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    const Bytes in = row + block / 8 * 176;
    const int part = block % 8;
    put_4_bits(out, column, in + 48 + part / 2 * 32, part % 2 * 4);
    put_1_bit(out + 16 * kPackedColumns, column, in + 16, part);
    put_scale_and_minimum(head, column, in + 4, part);
    if (part == 0) put_heads(head, column, in);
}

void pack_q6_k(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    const Bytes in = row + block / 8 * 210;
    const int part = block % 8, half = part / 4, within = part % 4;  // of 128 inputs each, four parts
    put_4_bits(out, column, in + half * 64 + within % 2 * 32, within / 2 * 4);
    put_2_bits(out + 16 * kPackedColumns, column, in + 128 + half * 32, within * 2);
    for (int i = 0; i < 2; ++i) out[(24 + i) * kPackedColumns + column] = in[192 + 2 * part + i];
    if (part == 0) std::memcpy(head + 2 * column, in + 208, 2);
}

// Q2_K's and Q3_K's runs of 128 inputs have two bits of 32 in each place of 32 bytes.
void pack_q2_k(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    const Bytes in = row + block / 8 * 84;
    const int part = block % 8;
    put_2_bits(out, column, in + 16 + part / 4 * 32, part % 4 * 2);
    std::memcpy(out + 8 * kPackedColumns + 2 * column, in + 2 * part, 2);
    if (part == 0) put_heads(head, column, in + 80);
}

std::uint8_t q3_k_scale(Bytes scales, int part) {
    const int low = part < 8 ? scales[part] & 15 : scales[part - 8] >> 4;
    return static_cast<std::uint8_t>((low | (scales[8 + part % 4] >> part / 4 * 2 & 3) << 4) - 32);
}

void pack_q3_k(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    const Bytes in = row + block / 8 * 110;
    const int part = block % 8;
    put_2_bits(out, column, in + 32 + part / 4 * 32, part % 4 * 2);
    put_1_bit(out + 8 * kPackedColumns, column, in, part);
    for (int i = 0; i < 2; ++i) out[(12 + i) * kPackedColumns + column] = q3_k_scale(in + 96, 2 * part + i);
    if (part == 0) std::memcpy(head + 2 * column, in + 108, 2);
}

void pack_iq4_xs(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    const Bytes in = row + block / 8 * 136;
    const int part = block % 8, high = in[2 + part / 4] >> part % 4 * 2 & 3;
    for (int quad = 0; quad < 4; ++quad) put(out, quad, column, four_at(in + 8 + part * 16 + 4 * quad));
    const int scale = ((in[4 + part / 2] >> part % 2 * 4 & 15) | high << 4) - 32;
    head[(2 + part) * kPackedColumns + column] = static_cast<std::uint8_t>(scale);
    if (part == 0) std::memcpy(head + 2 * column, in, 2);
}

}  // namespace

PackBlock packer_of_256(Format format) {
    switch (format) {
        case Format::Q2_K: return pack_q2_k;
        case Format::Q3_K: return pack_q3_k;
        case Format::Q4_K: return pack_q4_k;
        case Format::Q5_K: return pack_q5_k;
        case Format::Q6_K: return pack_q6_k;
        case Format::IQ4_XS: return pack_iq4_xs;
        default: return nullptr;
    }
}

}  // namespace plait
