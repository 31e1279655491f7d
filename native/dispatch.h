// Which CPU's kernels run: the best one, or the one that EVERYITEM_CPU names.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace everyitem {

// The kernels in use. The first call chooses; it throws std::invalid_argument if EVERYITEM_CPU names none of ours.
const Kernels& kernels();

// Names that this CPU can run, slowest first.
std::vector<std::string> available_cpus();

// Use these kernels from now on, in the whole process. Throws std::invalid_argument for any name not available.
void use_cpu(const std::string& name);

}  // namespace everyitem
