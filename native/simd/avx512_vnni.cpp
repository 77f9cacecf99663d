// The kernels for AVX-512 F, BW, VL and VNNI. CMakeLists.txt gives this file its target flags; no other may share code
// with it.
#define PLAIT_PATH avx512_vnni

#include "kernels/table.h"

namespace plait {

const Kernels& avx512_vnni_kernels() {
    static constexpr Kernels table = avx512_vnni::make_table("avx512_vnni");
    return table;
}

}  // namespace plait
