// How weights and rows are laid out for products in integers. Plain data only, as in kernels.h.
//
// A repacked weight is a row of tiles of 32 output columns (the last one filled up with zeroes). A tile holds, for each
// 32 inputs: their weights, four inputs of column 0, four of column 1, ..., then the next four inputs; then the 32
// columns' scales, in half precision. A weight is a byte, 128 added; of 4-bit weights a byte's low half is input i, the
// high half input i + 16. Every part is whole cache lines.
//
// Rows are quantised to 8 bits with a scale for each 32 values, and lie in panels of up to six rows: block 0 of each
// row, then block 1 of each row, ...
#pragma once

#include <cstddef>
#include <cstdint>

namespace plait {

enum class Format : int {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
};

constexpr int kPackedColumns = 32;
constexpr int kPackedInputs = 32;
constexpr int kPanelRows = 6;

struct PanelBlock {
    std::int8_t q[kPackedInputs];
    float scale;
    std::int32_t less_8, less_128;  // the sum of q times -8, and times -128: what the weights' offset adds
};

// Bytes of a tile; 0 for formats that are not repacked.
static constexpr std::size_t packed_tile_bytes(Format format, int columns) {
    const std::size_t blocks = static_cast<std::size_t>(columns / kPackedInputs);
    switch (format) {
        case Format::Q8_0: return blocks * kPackedColumns * (32 + 2);
        case Format::Q4_0: return blocks * kPackedColumns * (16 + 2);
        default: return 0;
    }
}

// Rows are split evenly into as few panels as can hold them: panel g begins at row group_start(rows, g).
static constexpr int row_groups(int rows) { return (rows + kPanelRows - 1) / kPanelRows; }
static constexpr int group_start(int rows, int group) {
    const int groups = row_groups(rows);
    return groups == 0 ? 0 : static_cast<int>(static_cast<std::int64_t>(rows) * group / groups);
}

}  // namespace plait
