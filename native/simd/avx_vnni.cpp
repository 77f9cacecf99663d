// The kernels for AVX2, F16C and AVX-VNNI. CMakeLists.txt gives this file its target flags; no other may share code
// with it.
#define PLAIT_PATH avx_vnni

#include "kernels/table.h"

namespace plait {

const Kernels& avx_vnni_kernels() {
    static constexpr Kernels table = avx_vnni::make_table("avx_vnni");
    return table;
}

}  // namespace plait
