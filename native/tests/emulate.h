// Runs the avx_vnni path on a CPU that lacks only its one instruction.
#pragma once

#include "kernels/kernels.h"

namespace plait::test {

// The kernels of avx_vnni where they are built and this CPU has AVX2 but not AVX-VNNI, else null. From the first call
// on, a signal handler computes the instruction that the CPU refuses.
const Kernels* emulated_path();

}  // namespace plait::test
