// Which kernels this machine can run, the fastest first.
#pragma once
#include <string>
#include <vector>

#include "isa.h"

std::vector<const Kernels*> kernels_here();
const Kernels& kernels_named(const std::string& name);  // "" for the fastest; throws std::invalid_argument
