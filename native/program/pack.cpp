#include "program/pack.h"

#include <algorithm>
#include <cstring>

#include "program/pack_blocks.h"

namespace plait {
namespace {

PackBlock packer_of(Format format) {
    const PackBlock pack = packer_of_32(format);
    return pack != nullptr ? pack : packer_of_256(format);
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
