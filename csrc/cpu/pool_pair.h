// What the pooling kernels are told, in plain numbers. Maps are channels-last; rows are counted through the whole batch.
#pragma once

#include <stdint.h>

#include "common/capability.h"
#include "common/row_shape.h"
#include "common/storage.h"

namespace partnas {

struct PoolShape {
  int64_t channels, height, width, stride;
  int64_t output_height, output_width;
  RowShape statistics_rows;
};

#define PARTNAS_DECLARE(capability)                                                                                  \
  namespace capability {                                                                                             \
  /* Output rows [begin, end) of both pools, and (count, mean, sum of squared deviations) [2, C, 3] of them;         \
     scratch [2, moments_scratch, room], lines of pool_pair_lines(shape) floats. */                                  \
  void pool_pair(Storage storage, const PoolShape& shape, const void* x, int64_t begin, int64_t end, float* lines,   \
                 double* scratch, double* moments, void* max_map, void* avg_map);                                    \
  /* Output rows [begin, end) of one of the pools. */                                                                \
  void pool(Storage storage, const PoolShape& shape, bool takes_max, const void* x, int64_t begin, int64_t end,      \
            float* lines, void* map);                                                                                \
  /* Rows [begin, end) of the gradient of x; lines of pool_pair_backward_lines(shape) floats. One of the two gradients  \
     may be null; without max_gradient, x is not read. */                                                            \
  void pool_pair_backward(Storage storage, const PoolShape& shape, const void* x, const void* max_gradient,          \
                          const void* avg_gradient, int64_t begin, int64_t end, float* lines, void* gradient);       \
  int64_t pool_pair_lines(const PoolShape& shape);                                                                   \
  int64_t pool_pair_backward_lines(const PoolShape& shape);                                                          \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
