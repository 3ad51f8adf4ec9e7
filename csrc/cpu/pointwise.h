// What the pointwise kernels are told, in plain numbers.
#pragma once

#include <stdint.h>

#include "common/capability.h"
#include "common/storage.h"

namespace partnas {

// Pixels, rows of `in` channels, times a matrix: rows of `out` channels. The `in` channels are those of `parts` maps, one
// after the other. `clips`: x is clipped at zero first. `masks`: `with` is, and y is zero where it was clipped, which is
// the backward of that.
struct PointwiseShape {
  Storage storage;
  int64_t in, parts, out;
  bool clips, masks;
};

// What becomes of pixels x [in]: y [out] is their product by the matrix, plus bias [room of out] and `add` [out] where they
// are not null, and the sums over them of x[i] * with[o] are added to sums [in][room of out]. y and sums may be null.
struct PointwiseMaps {
  const void* const* x;
  const void* with;
  void* y;
  float* sums;
  const float* bias;
  const void* add;
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
  /* Pixels [begin, end). */                                                                                        \
  void pointwise(const PointwiseShape& shape, const PointwiseMaps& maps, const float* packed, int64_t begin,        \
                 int64_t end, float* scratch);                                                                      \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
