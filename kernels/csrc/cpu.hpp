// Which instruction sets this CPU has, and the kernels that use them.
#pragma once

#include <string>
#include <vector>

#include "gpt2_kernels.hpp"

namespace pengi {

// The kernels of an instruction set, or of the best one that the CPU has (`name` empty). Throws
// std::invalid_argument if there is no such set, or the CPU does not have it.
const Kernels& kernels_for(const std::string& name);

// The instruction sets that this CPU has, best first.
std::vector<std::string> instruction_sets();

}  // namespace pengi
