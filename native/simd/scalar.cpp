// The kernels for any CPU. CMakeLists.txt gives this file its target flags; no other may share code with it.
#define PLAIT_PATH scalar

#include "kernels/table.h"

namespace plait {

const Kernels& scalar_kernels() {
    static constexpr Kernels table = scalar::make_table("scalar");
    return table;
}

}  // namespace plait
