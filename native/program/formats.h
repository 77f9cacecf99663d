// The weight formats by GGUF's name, and their sizes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace plait {

std::vector<std::string> supported_formats();

// A matrix over bytes that outlive it. Throws std::invalid_argument for an unknown format, columns that are no whole
// blocks, a wrong number of bytes, or floats that are not aligned.
Matrix make_matrix(std::span<const std::uint8_t> bytes, const std::string& format, std::int64_t rows, int columns);

}  // namespace plait
