// Launchers of the 3x3 max and average pool on a GPU. Maps are channels-last.
#pragma once

#include <stdint.h>

#include "common/cuda.h"
#include "common/storage.h"

namespace partnas::cuda {

struct PoolShape {
  int64_t batch, channels, height, width, stride;

  int64_t output_height() const { return (height + stride - 1) / stride; }
  int64_t output_width() const { return (width + stride - 1) / stride; }
};

// Whether the image is small enough to be counted in int, along its axes and along a row.
bool pool_fits(const PoolShape& shape);

// Both maps, and statistics [2, 2, C] of them; scratch of pool_pair_scratch floats.
int64_t pool_pair_scratch(Storage storage, const PoolShape& shape);
Status pool_pair(Storage storage, const PoolShape& shape, const void* x, float* scratch, void* max_map, void* avg_map,
                 float* statistics, Stream stream);

// One of the maps.
Status pool(Storage storage, const PoolShape& shape, bool takes_max, const void* x, void* map, Stream stream);

// One of the two gradients may be null; without max_gradient, x is not read.
Status pool_pair_backward(Storage storage, const PoolShape& shape, const void* max_gradient, const void* avg_gradient,
                          const void* x, void* gradient, Stream stream);

Facts pool_pair_facts();

}  // namespace partnas::cuda
