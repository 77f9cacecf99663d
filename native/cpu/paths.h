// Which kernels this CPU can run.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace plait {

// Names of the paths that this machine can run, fastest first.
std::vector<std::string> usable_paths();

// The kernels of a path. Throws std::invalid_argument when this machine cannot run it, naming those it can.
const Kernels& kernels_of(const std::string& name);

}  // namespace plait
