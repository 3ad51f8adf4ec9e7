// Every operator's schema, stated once. A backward is an operator too.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(partnas, m) {
  m.def("cpu_capability() -> str");
  m.def("set_cpu_capability(str name) -> ()");

  // volume [B, P, D, H, W], order [P_out] -> xyz [B, P_out, 3], statistics [B, P_out, 5] (reference, sum, x, y, z)
  m.def("soft_argmax_3d(Tensor volume, int[] order) -> (Tensor, Tensor)");
  m.def("soft_argmax_3d_backward(Tensor gradient, Tensor volume, Tensor statistics, int[] order) -> Tensor");

  // x [B, C, ...]: the runs of `depth` channels interleaved by groups, or with groups 0, output run i being input run
  // order[i]; its own backward
  m.def("channel_shuffle(Tensor x, int groups, int[] order, int depth) -> Tensor");

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

  // maps F x K x [B, C_in / K, H, W], weight [F, C_out, C_in], bias [F, C_out], add F or no maps like the results
  // -> F maps of C_out channels; K maps are read as one, their channels one after the other. `reduces`: two matrices read
  // the even pixels of K maps, and the odd ones; add and result are one map of 2 * C_out channels. `packed`: what
  // pack_pointwise gave of that weight, of which then only the shape is read: 16 numbers that tell for which vectors the
  // matrices after them are. Where these are those of another instruction set, the weight, float32, is read.
  // Backward, of what was neither biased, added to nor reduced, for K = 1: `needs` tells for each map and for the weight
  // whether to form its gradient; those are returned, in that order. Without the weight's, and without relu, the maps may
  // be left out.
  m.def("pack_pointwise(Tensor weight) -> Tensor");
  m.def(
      "pointwise(Tensor[] maps, Tensor weight, bool relu, Tensor? bias, Tensor[] add, bool reduces=False, "
      "Tensor? packed=None) -> Tensor[]");
  m.def("pointwise_backward(Tensor[] gradients, Tensor[] maps, Tensor weight, bool relu, int[] needs) -> Tensor[]");

  // depthwise_bank after ReLU, and pointwise of its maps, which stay in the caches. Backward: `needs` tells for each of
  // those maps whether to form its gradient; these are returned, and the weight's.
  m.def(
      "depthwise_pointwise(Tensor x, Tensor[] filters, Tensor weight, int[] dilations, int stride, Tensor? statistics, "
      "float eps) -> Tensor[]");
  m.def(
      "depthwise_pointwise_backward(Tensor[] gradients, Tensor x, Tensor[] filters, Tensor weight, int[] dilations, "
      "int stride, Tensor? statistics, float eps, int[] needs) -> Tensor[]");

  // maps [B, C, H, W], of any sizes but of the same C -> statistics [K, 2, C]: mean, biased variance
  m.def("norm_stats(Tensor[] maps) -> Tensor");

  // maps and identities of one shape, statistics [K, 2, C], weights [K, C], identity_weights [L], shift [C]
  // -> [B, C, H, W]
  m.def("norm_sum(Tensor[] maps, Tensor statistics, Tensor weights, Tensor[] identities, Tensor identity_weights, "
        "Tensor? shift, float eps) -> Tensor");
  // -> sums [1 + K, C] of g and of g * (map - mean); dots [L] of g * identity
  m.def("norm_sum_reduce(Tensor gradient, Tensor[] maps, Tensor statistics, Tensor[] identities) -> (Tensor, Tensor)");
  // means: those sums over the number of positions -> gradients of the wanted maps, then of the wanted identities
  m.def("norm_sum_backward(Tensor gradient, Tensor[] maps, Tensor statistics, Tensor weights, Tensor means, "
        "Tensor identity_weights, int[] wanted, int[] wanted_identities, float eps) -> Tensor[]");

  // x [B, C, H, W] -> max and average map, statistics [2, 2, C] of them (see norm_stats)
  m.def("pool_pair(Tensor x, int stride) -> (Tensor, Tensor, Tensor)");
  m.def("pool_pair_backward(Tensor max_gradient, Tensor avg_gradient, Tensor x, int stride) -> Tensor");
  // One of them; its backward does not read the values of x for the average.
  m.def("pool(Tensor x, bool takes_max, int stride) -> Tensor");
  m.def("pool_backward(Tensor gradient, Tensor x, bool takes_max, int stride) -> Tensor");

  // x [B, C, H, W] -> [B, C, factor * H, factor * W]; the backward takes that shape to this one
  m.def("upsample(Tensor x, int factor) -> Tensor");
  m.def("upsample_backward(Tensor gradient, int factor) -> Tensor");
}
