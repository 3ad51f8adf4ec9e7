// What the norm_sum kernels are told, in plain numbers. Ranges are in elements and begin where a row begins.
#pragma once

#include <stdint.h>

#include "common/capability.h"
#include "common/row_shape.h"
#include "common/storage.h"

namespace partnas {

// One map of a sum. The gradient is slope * (g - mean) - curve * (x - center), or slope * g where x is null.
struct Branch {
  const void* x;
  void* gradient;
  const float *center, *slope, *curve;
};

#define PARTNAS_DECLARE(capability)                                                                                   \
  namespace capability {                                                                                              \
  /* (count, mean, sum of squared deviations) [C, 3] of a range of a map; scratch [moments_scratch, room]. */         \
  void norm_stats(Storage storage, const RowShape& shape, const void* x, int64_t begin, int64_t end, double* scratch, \
                  double* moments);                                                                                   \
  /* output = offset + sum of slope * (x - center); scratch of scratch_elements(length) floats. */                    \
  void norm_sum(Storage storage, const RowShape& shape, const Branch* branches, int64_t count, const float* offset,   \
                int64_t begin, int64_t end, float* scratch, void* output);                                            \
  /* sums [1 + count, C]: of g, then of g * (x - center) for each branch. */                                          \
  void norm_sum_reduce(Storage storage, const RowShape& shape, const void* gradient, const Branch* branches,          \
                       int64_t count, int64_t begin, int64_t end, float* scratch, double* lane_sums, double* sums);   \
  /* `streams`: the gradients are too large to be found in a cache when they are read. */                             \
  void norm_sum_backward(Storage storage, const RowShape& shape, const void* gradient, const float* mean,             \
                         const Branch* branches, int64_t count, int64_t begin, int64_t end, bool streams,             \
                         float* scratch);                                                                             \
  /* Floats of scratch that norm_sum and norm_sum_backward need for rows of that length. */                           \
  int64_t norm_sum_scratch(int64_t length);                                                                           \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
