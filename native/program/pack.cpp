#include "program/pack.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "program/pack_blocks.h"

namespace plait {
namespace {

constexpr std::size_t kStretch = std::size_t{4} << 20;  // bytes repacked before their source is forgotten

PackBlock packer_of(Format format) {
    for (const auto packer : {packer_of_32, packer_of_256, packer_of_iq}) {
        if (const PackBlock pack = packer(format)) return pack;
    }
    return nullptr;
}

// Tiles first..last-1 to `out`, where tile 0 begins.
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

// Pages that hold nothing but rows first..last-1 come from the file again when they are next read.
void forget_rows(const Matrix& weight, std::int64_t first, std::int64_t last) {
    const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const std::uintptr_t base = reinterpret_cast<std::uintptr_t>(weight.data);
    const std::uintptr_t start = (base + static_cast<std::size_t>(first) * weight.row_bytes + page - 1) / page * page;
    const std::uintptr_t end = (base + static_cast<std::size_t>(last) * weight.row_bytes) / page * page;
    if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
}

}  // namespace

bool can_pack(const Matrix& weight) { return packer_of(weight.format) != nullptr; }

void pack(const Matrix& weight, bool forget, Team& team, std::uint8_t* out) {
    const std::int64_t tiles = packed_tiles(weight), piece = 4;
    const std::size_t tile_bytes = packed_tile_bytes(weight.format, weight.columns);
    const std::int64_t stretch = std::max(piece, static_cast<std::int64_t>(kStretch / tile_bytes));
    for (std::int64_t at = 0; at < tiles; at += stretch) {
        const std::int64_t end = std::min(at + stretch, tiles);
        const auto job = [&](Worker& worker) {
            worker.each(static_cast<int>((end - at + piece - 1) / piece), [&](int i) {
                pack_tiles(weight, at + i * piece, std::min(at + (i + 1) * piece, end), out);
            });
        };
        team.run(job);
        // From a tile earlier: a page that two stretches share is forgotten with the second.
        const std::int64_t first = std::max<std::int64_t>(0, (at - 1) * kPackedColumns);
        if (forget) forget_rows(weight, first, std::min(end * kPackedColumns, weight.rows));
    }
}

}  // namespace plait
