#include "program/pack.h"

#include <cstring>

namespace plait {
namespace {

struct Source {
    int quads, bytes;     // four weights' bytes at a time, after the scale; bytes of a block
    std::uint32_t turns;  // makes signed bytes unsigned ones, 128 more
};

Source source_of(Format format) {
    if (format == Format::Q8_0) return {8, 34, 0x80808080u};
    return {4, 18, 0};  // Q4_0: byte i of a block is input i and, in its high half, input i + 16
}

// One column's block: a half-precision scale, then the weights.
void pack_block(const Source& source, const std::uint8_t* in, int column, std::uint8_t* out) {
    for (int quad = 0; quad < source.quads; ++quad) {
        std::uint32_t four;
        std::memcpy(&four, in + 2 + 4 * quad, sizeof four);
        four ^= source.turns;
        std::memcpy(out + 4 * (quad * kPackedColumns + column), &four, sizeof four);
    }
    std::memcpy(out + source.quads * 4 * kPackedColumns + 2 * column, in, 2);
}

}  // namespace

bool can_pack(const Matrix& weight) { return packed_tile_bytes(weight.format, kPackedInputs) != 0; }

void pack_tiles(const Matrix& weight, std::int64_t first, std::int64_t last, std::uint8_t* out) {
    const Source source = source_of(weight.format);
    const std::size_t tile_bytes = packed_tile_bytes(weight.format, weight.columns);
    const std::size_t block_bytes = packed_tile_bytes(weight.format, kPackedInputs);
    const int blocks = weight.columns / kPackedInputs;
    for (std::int64_t tile = first; tile < last; ++tile) {
        std::uint8_t* at = out + static_cast<std::size_t>(tile) * tile_bytes;
        for (int b = 0; b < blocks; ++b, at += block_bytes) {
            for (int c = 0; c < kPackedColumns; ++c) {
                const std::int64_t row = tile * kPackedColumns + c;
                static constexpr std::uint8_t zeroes[34] = {};
                const std::uint8_t* in = zeroes;
                if (row < weight.rows) {
                    in = weight.data + static_cast<std::size_t>(row) * weight.row_bytes +
                         static_cast<std::size_t>(b) * static_cast<std::size_t>(source.bytes);
                }
                pack_block(source, in, c, at);
            }
        }
    }
}

}  // namespace plait
