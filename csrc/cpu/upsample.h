// What the upsampling kernels are told, in plain numbers. Maps are channels-last; rows are counted through the batch.
#pragma once

#include <stdint.h>

#include "common/capability.h"
#include "common/storage.h"

namespace partnas {

// Sizes of the small map; the large one has `factor` (2 or 4) times the height and width.
struct UpsampleShape {
  int64_t channels, height, width, factor;
};

#define PARTNAS_DECLARE(capability)                                                                                  \
  namespace capability {                                                                                             \
  /* Rows [begin, end) of the large map from the small one; line of width * channels floats. `streams`: the map is   \
     too large to be found in a cache when it is read. */                                                            \
  void upsample(Storage storage, const UpsampleShape& shape, const void* small, int64_t begin, int64_t end,          \
                bool streams, float* line, void* large);                                                             \
  /* Rows [begin, end) of the small map's gradient; line of factor * width * channels floats. */                     \
  void upsample_backward(Storage storage, const UpsampleShape& shape, const void* large, int64_t begin, int64_t end, \
                         float* line, void* small);                                                                  \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
