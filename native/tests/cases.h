// What every SIMD path must compute alike: each kernel of the table on fixed inputs, as bytes to compare.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace plait::test {

using Floats = std::vector<float>;
using Bytes = std::vector<std::uint8_t>;

// A kernel on inputs that are the same on every machine: they come from whole numbers, not from a library.
struct Case {
    std::string name;
    std::function<Bytes(const Kernels&)> run;
};

std::vector<Case> kernel_cases();

// Numbers between -4 and 4, from a seed.
Floats exact_floats(std::size_t n, unsigned seed);

// Bytes of a weight whose scales are finite.
Bytes weight_bytes(const std::string& format, int rows, int columns, unsigned seed);

// FNV-1a, 64 bits.
std::uint64_t checksum(const Bytes& bytes);

// The paths to compare with scalar: those that this machine can run, and those that `emulate.h` makes it run.
std::vector<const Kernels*> tested_paths();

}  // namespace plait::test
