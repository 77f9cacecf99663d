#include "program/pack.h"

#include <algorithm>
#include <cstring>

namespace plait {
namespace {

using Bytes = const std::uint8_t*;

// Four bytes to their place: a column's, in the group of four inputs `quad`.
void put(std::uint8_t* out, int quad, int column, std::uint32_t four) {
    std::memcpy(out + 4 * (quad * kPackedColumns + column), &four, sizeof four);
}

std::uint32_t four_at(const std::uint8_t* p) {
    std::uint32_t four;
    std::memcpy(&four, p, sizeof four);
    return four;
}

// A column's 32 inputs, number `block` of its row, to `out`; and every 256 inputs, to `head`.
using PackBlock = void (*)(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out);

void pack_q8_0(Bytes row, int block, int column, std::uint8_t*, std::uint8_t* out) {
    const Bytes in = row + block * 34;
    for (int quad = 0; quad < 8; ++quad) put(out, quad, column, four_at(in + 2 + 4 * quad) ^ 0x80808080u);
    std::memcpy(out + 32 * kPackedColumns + 2 * column, in, 2);
}

// Byte i of the file's block is input i and, in its high half, input i + 16, as in the tile.
void pack_q4_0(Bytes row, int block, int column, std::uint8_t*, std::uint8_t* out) {
    const Bytes in = row + block * 18;
    for (int quad = 0; quad < 4; ++quad) put(out, quad, column, four_at(in + 2 + 4 * quad));
    std::memcpy(out + 16 * kPackedColumns + 2 * column, in, 2);
}

// See quant/q4_k.h for the file's block.
void pack_q4_k(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    const Bytes in = row + block / 8 * 144, scales = in + 4;
    const int part = block % 8, shift = part % 2 * 4;
    const Bytes source = in + 16 + part / 2 * 32;
    for (int quad = 0; quad < 4; ++quad) {
        const std::uint32_t low = four_at(source + 4 * quad) >> shift & 0x0f0f0f0fu;
        const std::uint32_t high = four_at(source + 16 + 4 * quad) >> shift & 0x0f0f0f0fu;
        put(out, quad, column, low | high << 4);
    }
    int scale, minimum;
    if (part < 4) {
        scale = scales[part] & 63;
        minimum = scales[part + 4] & 63;
    } else {
        scale = (scales[part + 4] & 15) | scales[part - 4] >> 6 << 4;
        minimum = scales[part + 4] >> 4 | scales[part] >> 6 << 4;
    }
    out[16 * kPackedColumns + column] = static_cast<std::uint8_t>(scale);
    out[17 * kPackedColumns + column] = static_cast<std::uint8_t>(minimum);
    if (part != 0) return;
    std::memcpy(head + 2 * column, in, 2);
    std::memcpy(head + 2 * kPackedColumns + 2 * column, in + 2, 2);
}

// See quant/q6_k.h for the file's block.
void pack_q6_k(Bytes row, int block, int column, std::uint8_t* head, std::uint8_t* out) {
    const Bytes in = row + block / 8 * 210;
    const int part = block % 8, half = part / 4, within = part % 4;  // of 128 inputs each, four parts
    const Bytes low = in + half * 64 + within % 2 * 32, high = in + 128 + half * 32;
    const int low_shift = within / 2 * 4, high_shift = within * 2;
    std::uint32_t twos[2] = {};
    for (int quad = 0; quad < 4; ++quad) {
        const std::uint32_t first = four_at(low + 4 * quad) >> low_shift & 0x0f0f0f0fu;
        const std::uint32_t second = four_at(low + 16 + 4 * quad) >> low_shift & 0x0f0f0f0fu;
        put(out, quad, column, first | second << 4);
    }
    for (int quad = 0; quad < 8; ++quad) {
        twos[quad % 2] |= (four_at(high + 4 * quad) >> high_shift & 0x03030303u) << quad / 2 * 2;
    }
    for (int i = 0; i < 2; ++i) put(out + 16 * kPackedColumns, i, column, twos[i]);
    for (int i = 0; i < 2; ++i) out[(24 + i) * kPackedColumns + column] = in[192 + 2 * part + i];
    if (part == 0) std::memcpy(head + 2 * column, in + 208, 2);
}

PackBlock packer_of(Format format) {
    switch (format) {
        case Format::Q8_0: return pack_q8_0;
        case Format::Q4_0: return pack_q4_0;
        case Format::Q4_K: return pack_q4_k;
        case Format::Q6_K: return pack_q6_k;
        default: return nullptr;
    }
}

}  // namespace

bool can_pack(const Matrix& weight) { return packer_of(weight.format) != nullptr; }

void pack_tiles(const Matrix& weight, std::int64_t first, std::int64_t last, std::uint8_t* out) {
    const PackBlock pack = packer_of(weight.format);
    const PackedBytes bytes = packed_bytes(weight.format);
    const std::size_t tile_bytes = packed_tile_bytes(weight.format, weight.columns);
    for (std::int64_t tile = first; tile < last; ++tile) {
        std::uint8_t *at = out + static_cast<std::size_t>(tile) * tile_bytes, *head = at;
        const std::int64_t row = tile * kPackedColumns;
        const int columns = static_cast<int>(std::min<std::int64_t>(kPackedColumns, weight.rows - row));
        // Columns past the last: scales of zero, and weights that do not matter.
        if (columns < kPackedColumns) std::memset(at, 0, tile_bytes);
        for (int b = 0; b < weight.columns / kPackedInputs; ++b, at += bytes.weights + bytes.scales) {
            if (b % 8 == 0) {
                head = at;
                at += bytes.head;
            }
            for (int c = 0; c < columns; ++c) {
                pack(weight.data + static_cast<std::size_t>(row + c) * weight.row_bytes, b, c, head, at);
            }
        }
    }
}

}  // namespace plait
