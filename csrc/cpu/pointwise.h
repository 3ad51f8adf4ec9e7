// What the pointwise kernels are told, in plain numbers.
#pragma once

#include <stdint.h>

#include "common/capability.h"
#include "common/storage.h"

namespace partnas {

// Every second pixel of every second row of maps of that size, from `first` (0 or 1) on; pixels beyond an edge are zero.
struct EverySecond {
  int64_t height, width, first;
};

// Pixels, rows of `in` channels, times a matrix: rows of `out` channels. The `in` channels are those of `parts` maps, one
// after the other; results lie `row` elements apart, which are `out` or more. `clips`: x is clipped at zero first. `masks`:
// `with` is, and y is zero where it was clipped, which is the backward of that; `row` is then `out`. `second`: the pixels
// are these of x; null for all.
struct PointwiseShape {
  Storage storage;
  int64_t in, parts, out, row;
  bool clips, masks;
  const EverySecond* second;
};

// What becomes of pixels x [in]: y [out] is their product by the matrix, plus bias [room of out] and `add` [out] where they
// are not null, and the sums over them of x[i] * with[o] are added to sums [in][room of out]. y and sums may be null.
// `streams`: y is written past the caches where that can be.
struct PointwiseMaps {
  const void* const* x;
  const void* with;
  void* y;
  float* sums;
  const float* bias;
  const void* add;
  bool streams = false;
};

// Pixels [begin, end), and of their results the columns of piece `column` of `columns`.
struct PointwisePart {
  int64_t begin, end, column, columns;
};

#define PARTNAS_DECLARE(capability)                                                                                 \
  namespace capability {                                                                                            \
  int64_t pointwise_lanes();                                                                                        \
  /* Floats that a row of that many channels takes in whole vectors. */                                             \
  int64_t pointwise_room(int64_t channels);                                                                         \
  /* Floats that `pointwise` needs to work in. */                                                                   \
  int64_t pointwise_scratch(const PointwiseShape& shape);                                                           \
  /* The matrix, whose element (o, i) is at o * out_stride + i * in_stride, as [in * room of out]: i in [begin, end). */ \
  void pack_pointwise(const PointwiseShape& shape, const float* matrix, int64_t out_stride, int64_t in_stride,      \
                      int64_t begin, int64_t end, float* packed);                                                   \
  /* Into how many pieces the columns of results may be cut, where there are neither sums nor a mask. */            \
  int64_t pointwise_columns(const PointwiseShape& shape);                                                           \
  void pointwise(const PointwiseShape& shape, const PointwiseMaps& maps, const float* packed,                       \
                 const PointwisePart& part, float* scratch);                                                        \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
