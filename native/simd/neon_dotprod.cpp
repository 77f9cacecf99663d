// The kernels for 64-bit ARM with dot products (sdot). CMakeLists.txt gives this file its target flags; no other may share code
// with it.
#define PLAIT_PATH neon_dotprod
#define PLAIT_NEON

#include "kernels/table.h"

namespace plait {

const Kernels& neon_dotprod_kernels() {
    static constexpr Kernels table = neon_dotprod::make_table("neon_dotprod");
    return table;
}

}  // namespace plait
