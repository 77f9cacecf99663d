// The kernels for 64-bit ARM. CMakeLists.txt gives this file its target flags; no other may share code
// with it.
#define PLAIT_PATH neon
#define PLAIT_NEON

#include "kernels/table.h"

namespace plait {

const Kernels& neon_kernels() {
    static constexpr Kernels table = neon::make_table("neon");
    return table;
}

}  // namespace plait
