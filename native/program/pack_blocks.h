// How one column's 32 inputs of each format are put into a tile (kernels/layout.h); quant/ has the file's blocks.
#pragma once

#include <cstring>

#include "kernels/kernels.h"

namespace plait {

// A column's 32 inputs, number `block` of its row, to `out`; and every 256 inputs, to `head`.
using PackBlock = void (*)(const std::uint8_t* row, int block, int column, std::uint8_t* head, std::uint8_t* out);

// Of the format; null where that has no repacked form.
PackBlock packer_of_32(Format format);   // blocks of 32 weights
PackBlock packer_of_256(Format format);  // blocks of 256
PackBlock packer_of_iq(Format format);   // levels of tables, and ternary

inline std::uint32_t four_at(const std::uint8_t* p) {
    std::uint32_t four;
    std::memcpy(&four, p, sizeof four);
    return four;
}

// Four bytes to their place: a column's, in the group of four inputs `quad`.
inline void put(std::uint8_t* out, int quad, int column, std::uint32_t four) {
    std::memcpy(out + 4 * (quad * kPackedColumns + column), &four, sizeof four);
}

}  // namespace plait
