// The kernels for AVX-512 F, BW and VL. CMakeLists.txt gives this file its target flags; no other may share code with
// it.
#define PLAIT_PATH avx512

#include "kernels/table.h"

namespace plait {

const Kernels& avx512_kernels() {
    static constexpr Kernels table = avx512::make_table("avx512");
    return table;
}

}  // namespace plait
