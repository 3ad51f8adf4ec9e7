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

  // x [B, C, H, W], weights F x [C, k, k], statistics [2, C], scale and shift [C] -> F maps. Backward: `needs` tells for
  // x, scale, shift and each weight whether to form its gradient; those are returned, in that order. `before_norm`: the
  // gradient of x is that of the normalised map, without what flows through the statistics.
  m.def(
      "depthwise_bank(Tensor x, Tensor[] weights, int[] dilations, int stride, Tensor? statistics, Tensor? scale, "
      "Tensor? shift, float eps, bool relu) -> Tensor[]");
  m.def(
      "depthwise_bank_backward(Tensor[] gradients, Tensor x, Tensor[] weights, int[] dilations, int stride, "
      "Tensor? statistics, Tensor? scale, Tensor? shift, float eps, bool relu, int[] needs, bool before_norm) -> "
      "Tensor[]");
}
