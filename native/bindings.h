// What the binding files have of each other.
#pragma once

#include <nanobind/nanobind.h>

#include "program/program.h"

namespace plait {

void bind_sampling(nanobind::class_<Program> program);

}  // namespace plait
