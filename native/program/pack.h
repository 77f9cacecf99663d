// Repacks weights for the integer kernels; kernels/layout.h says how.
#pragma once

#include "kernels/kernels.h"

namespace plait {

// Whether the weight's format has a repacked form.
bool can_pack(const Matrix& weight);

inline std::int64_t packed_tiles(const Matrix& weight) { return (weight.rows + kPackedColumns - 1) / kPackedColumns; }

// Writes tiles first..last-1 to `out`, where tile 0 begins.
void pack_tiles(const Matrix& weight, std::int64_t first, std::int64_t last, std::uint8_t* out);

}  // namespace plait
