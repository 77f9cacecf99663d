// How weights and rows are laid out for products in integers. Plain data only, as in kernels.h.
//
// A repacked weight is a row of tiles of 32 output columns (the last one filled up with zeroes). A tile holds, for each
// 32 inputs: their weights, four inputs of column 0, four of column 1, ..., then the next four inputs; then the 32
// columns' scales. Every part is whole cache lines.
// - Q8_0: a byte for each weight, 128 added; scales in half precision.
// - Q4_0: a byte's low half is input i, the high half input i + 16, 8 added; scales as above.
// - Q4_1: weights as above, nothing added; scales, then minimums with their sign turned, in half precision.
// - Q5_0: the low four bits as in Q4_0, then the fifth ones: those of eight inputs 4 apart in a byte, so that they are
//   at the same place in all bytes of four inputs of 16 columns. 16 added; scales as above.
// - Q5_1: weights as above, nothing added; scales and minimums as in Q4_1.
// - IQ4_NL: as Q4_0, but the half bytes stand for the levels of their table (kIq4Levels).
// - Q4_K: weights as in Q4_1. Before each 256 inputs the columns' scale of the scales, then of the minimums, in half
//   precision; a byte for each column's scale of the first 32 inputs, of the next 32, ...; and for each column's
//   minimums of the first and the second 32 inputs, side by side, of the third and the fourth, ...
// - Q5_K: weights as in Q5_1, all else as in Q4_K.
// - IQ4_XS: weights as in IQ4_NL. Before each 256 inputs the columns' scale of the scales, then a signed byte for each
//   column's scale of the first 32 inputs, of the next 32, ...
// - Q6_K: weights, 32 added, with their low four bits as above, then the high two: those of four inputs 8 apart in a
//   byte; a signed byte for the scale of each column's first 16 inputs, then for the other 16. Before each 256 inputs
//   the columns' scale of the scales.
// - Q3_K: the low two bits as Q6_K's high ones, then the third as Q5_0's fifth, 4 added; all else as in Q6_K.
// - Q2_K: weights as Q6_K's high two bits; two bytes for each column, of its first 16 inputs and of the other 16: the
//   scale in the low half, the minimum in the high one. Before each 256 inputs the columns' scale of the scales, then of
//   the minimums.
// - IQ1_S, IQ2_XXS, IQ3_XXS, IQ3_S: as IQ4_XS, with levels of their own (quant/levels.h) and scales of 1 to 31.
// - IQ1_M, IQ2_XS, IQ2_S: the same, but a byte for the scale of each column's first 16 inputs, then for the other 16,
//   behind the weights, and before each 256 inputs the columns' scale of the scales alone.
// - TQ1_0, TQ2_0: as Q2_K, all scales and minimums 1, and both their scales the block's.
// - MXFP4: as IQ4_NL, with levels of its own, and scales as the upper half of a float32.
//
// Rows are quantised to 8 bits with a scale for each 32 values, or for each 256 where a weight's blocks have as many
// (then all but one operation for 256 inputs are in integers), and lie in panels of up to six rows: block 0 of each
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
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    TQ1_0,
    TQ2_0,
    MXFP4,
};

constexpr int kPackedColumns = 32;
constexpr int kPackedInputs = 32;
constexpr int kPanelRows = 6;

// What the 16 indices of IQ4_NL and IQ4_XS stand for.
constexpr std::int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct PanelBlock {
    std::int8_t q[kPackedInputs];
    float scale;
    float sum;                                  // of what the block stands for: scale times the sum of q
    std::int16_t half_sums[2];                  // of q, each half
    std::int16_t pair_sums[2];                  // of q of blocks 2 i and 2 i + 1, in both; with a scale for 256 only
    std::int32_t less_8, less_128, less_32[2];  // the sum of q, less_32's of each half, times -8, -128, -32
};

// Bytes of 32 inputs of a tile, and of what stands before each 256.
struct PackedBytes {
    int weights, scales, head;
};

static constexpr PackedBytes packed_bytes(Format format) {
    switch (format) {
        case Format::Q8_0: return {32 * kPackedColumns, 2 * kPackedColumns, 0};
        case Format::Q4_0:
        case Format::MXFP4:
        case Format::IQ4_NL: return {16 * kPackedColumns, 2 * kPackedColumns, 0};
        case Format::Q4_1: return {16 * kPackedColumns, 4 * kPackedColumns, 0};
        case Format::Q5_0: return {20 * kPackedColumns, 2 * kPackedColumns, 0};
        case Format::Q5_1: return {20 * kPackedColumns, 4 * kPackedColumns, 0};
        case Format::Q4_K: return {16 * kPackedColumns, 0, 20 * kPackedColumns};
        case Format::Q5_K: return {20 * kPackedColumns, 0, 20 * kPackedColumns};
        case Format::IQ4_XS:
        case Format::IQ1_S:
        case Format::IQ2_XXS:
        case Format::IQ3_XXS:
        case Format::IQ3_S: return {16 * kPackedColumns, 0, 10 * kPackedColumns};
        case Format::IQ1_M:
        case Format::IQ2_XS:
        case Format::IQ2_S: return {16 * kPackedColumns, 2 * kPackedColumns, 2 * kPackedColumns};
        case Format::TQ1_0:
        case Format::TQ2_0:
        case Format::Q2_K: return {8 * kPackedColumns, 2 * kPackedColumns, 4 * kPackedColumns};
        case Format::Q3_K: return {12 * kPackedColumns, 2 * kPackedColumns, 2 * kPackedColumns};
        case Format::Q6_K: return {24 * kPackedColumns, 2 * kPackedColumns, 2 * kPackedColumns};
        default: return {};  // not repacked
    }
}

// Inputs that share a scale in the rows that a weight is multiplied with.
static constexpr int scale_inputs(Format format) { return packed_bytes(format).head != 0 ? 256 : kPackedInputs; }

static constexpr std::size_t packed_tile_bytes(Format format, int columns) {
    const PackedBytes bytes = packed_bytes(format);
    return static_cast<std::size_t>(columns / kPackedInputs) * static_cast<std::size_t>(bytes.weights + bytes.scales) +
           static_cast<std::size_t>(columns / 256) * static_cast<std::size_t>(bytes.head);
}

// Rows are split evenly into as few panels as can hold them: panel g begins at row group_start(rows, g).
static constexpr int row_groups(int rows) { return (rows + kPanelRows - 1) / kPanelRows; }
static constexpr int group_start(int rows, int group) {
    const int groups = row_groups(rows);
    return groups == 0 ? 0 : static_cast<int>(static_cast<std::int64_t>(rows) * group / groups);
}

}  // namespace plait
