// What the launchers of csrc/cuda speak in; no header of CUDA's is needed to call them.
#pragma once

#include <vector>

namespace partnas::cuda {

// A cudaStream_t.
using Stream = void*;

// A cudaError_t: 0 when all went well. A launcher tells what its launches said, and waits for none.
using Status = int;
constexpr Status success = 0, invalid_value = 1;

// CUDA's words for a status.
const char* describe(Status status);

// How a kernel is launched, for the table of resources. `name`: a regular expression that its demangled name matches;
// `warps`: the occupancy floor, resident warps per multiprocessor at the least; `architecture`: the one that it is
// launched so on, such as 90, or 0 for all.
struct KernelFacts {
  const char* name;
  int threads, dynamic_bytes, warps, architecture = 0;
};
using Facts = std::vector<KernelFacts>;

}  // namespace partnas::cuda
