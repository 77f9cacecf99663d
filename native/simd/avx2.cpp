// The kernels for AVX2 and F16C. CMakeLists.txt gives this file its target flags; no other may share code with it.
#define PLAIT_PATH avx2

#include "kernels/table.h"

namespace plait {

const Kernels& avx2_kernels() {
    static constexpr Kernels table = avx2::make_table("avx2");
    return table;
}

}  // namespace plait
