// What pool_pair is given, checked, for the files that face PyTorch.
#pragma once

#include "common/tensor.h"

namespace partnas {

inline void check_pool(const Tensor& x, int64_t stride, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4, name, ": x must be (B, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(stride == 1 || stride == 2, name, ": stride ", stride, " is neither 1 nor 2");
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, name, ": x has no pixels or no channels");
}

inline void check_pool_gradient(const Tensor& gradient, const Tensor& x, int64_t height, int64_t width,
                                const char* name) {
  STD_TORCH_CHECK(gradient.dim() == 4 && gradient.size(0) == x.size(0) && gradient.size(1) == x.size(1) &&
                      gradient.size(2) == height && gradient.size(3) == width &&
                      gradient.scalar_type() == x.scalar_type(),
                  name, ": a gradient must have the shape and dtype of its pool");
}

}  // namespace partnas
