// Every operator's schema, stated once. A backward is an operator too.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(partnas, m) {
  m.def("cpu_capability() -> str");
  m.def("set_cpu_capability(str name) -> ()");

  // volume [B, P, D, H, W], order [P_out] -> xyz [B, P_out, 3], statistics [B, P_out, 5] (reference, sum, x, y, z)
  m.def("soft_argmax_3d(Tensor volume, int[] order) -> (Tensor, Tensor)");
  m.def("soft_argmax_3d_backward(Tensor gradient, Tensor volume, Tensor statistics, int[] order) -> Tensor");

  // x [B, C, ...], order [C / depth]: output run i of `depth` channels is input run order[i]; its own backward
  m.def("channel_shuffle(Tensor x, int[] order, int depth) -> Tensor");
}
