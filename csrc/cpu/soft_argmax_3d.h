// What the soft-argmax kernels are told, in plain numbers.
#pragma once

#include <stdint.h>

#include "common/capability.h"
#include "common/storage.h"

namespace partnas {

// A volume as the kernels walk it: `inner` is contiguous. (outer, middle, inner) is (z, y, x) for NCHW and (y, x, z)
// for channels-last. Strides in elements.
struct Grid {
  int64_t outer, middle, inner;
  int64_t part_stride, outer_stride, middle_stride;
};

// Sums over a piece of one part's volume, relative to e^reference, coordinates in the grid's axes.
struct Partial {
  double reference, sum, inner, middle, outer;
};

// d/dv = e^(v - reference) * (inner_slope * (i - inner_mean) + ...); a part that nobody reads has `read` false.
struct PartGradient {
  double reference, inner_slope, middle_slope, outer_slope, inner_mean, middle_mean, outer_mean;
  bool read;
};

#define PARTNAS_DECLARE(capability)                                                                                  \
  namespace capability {                                                                                             \
  /* Sums of parts order[0..parts) over outer rows [begin, end), into partials[0], partials[partial_stride], ... */  \
  void soft_argmax_3d(Storage storage, const Grid& grid, const void* volume, const int64_t* order, int64_t parts,    \
                      int64_t begin, int64_t end, Partial* partials, int64_t partial_stride);                        \
  /* Gradient of parts [0, parts) over outer rows [begin, end). */                                                   \
  /* `streams`: it is too large to be found in a cache when it is read. */                                           \
  void soft_argmax_3d_backward(Storage storage, const Grid& grid, const void* volume, const PartGradient* gradients, \
                               int64_t parts, int64_t begin, int64_t end, const Grid& output_grid, void* output,     \
                               bool streams);                                                                        \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
