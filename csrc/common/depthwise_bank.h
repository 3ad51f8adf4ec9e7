// What depthwise_bank is given, checked, for the files that face PyTorch.
#pragma once

#include "common/tensor.h"

namespace partnas {

inline void check_bank(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<int64_t>& dilations,
                       int64_t stride, const std::optional<Tensor>& statistics, const std::optional<Tensor>& scale,
                       const std::optional<Tensor>& shift, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4, name, ": x must be (B, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(weights.size() == dilations.size(), name, ": ", weights.size(), " filters but ", dilations.size(),
                  " dilations");
  STD_TORCH_CHECK(stride == 1 || stride == 2, name, ": stride must be 1 or 2, got ", stride);
  const int64_t channels = x.size(1);
  for (size_t f = 0; f < dilations.size(); ++f) {
    const Tensor& w = weights[f];
    STD_TORCH_CHECK(w.dim() == 3 && w.size(0) == channels && w.size(1) == w.size(2) &&
                        (w.size(1) == 3 || w.size(1) == 5),
                    name, ": weight ", f, " must be (", channels, ", k, k), k 3 or 5");
    STD_TORCH_CHECK(dilations[f] == 1 || dilations[f] == 2, name, ": dilation ", f, " must be 1 or 2, got ",
                    dilations[f]);
  }
  STD_TORCH_CHECK(scale.has_value() == shift.has_value(), name, ": give both of scale and shift, or neither");
  STD_TORCH_CHECK(!statistics || (statistics->dim() == 2 && statistics->size(0) == 2 && statistics->size(1) == channels),
                  name, ": statistics must be (2, ", channels, ")");
  STD_TORCH_CHECK(!scale || (scale->numel() == channels && shift->numel() == channels), name,
                  ": scale and shift must be (", channels, ",)");
}

inline void check_bank_gradient(const Tensor& gradient, const Tensor& x, int64_t height, int64_t width,
                                const char* name) {
  STD_TORCH_CHECK(gradient.scalar_type() == x.scalar_type() && gradient.dim() == 4 &&
                      gradient.size(0) == x.size(0) && gradient.size(1) == x.size(1) && gradient.size(2) == height &&
                      gradient.size(3) == width,
                  name, ": a gradient is not like its map");
}

}  // namespace partnas
