// What the CUDA library was built for. Here and not in schemas.cpp: the operator is there only when the library is.
#include <torch/csrc/stable/library.h>

#include <string>

namespace partnas::cuda {
namespace {

std::string architectures() { return PARTNAS_CUDA_ARCHITECTURES; }

}  // namespace
}  // namespace partnas::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(partnas, m) { m.def("cuda_architectures() -> str"); }
STABLE_TORCH_LIBRARY_IMPL(partnas, CompositeExplicitAutograd, m) {
  m.impl("cuda_architectures", TORCH_BOX(&partnas::cuda::architectures));
}
