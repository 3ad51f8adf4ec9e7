// soft_argmax_3d on a GPU.
#pragma once

#include <stdint.h>

#include "common/cuda.h"
#include "common/storage.h"

namespace partnas::cuda {

// A volume as the kernels walk it: `inner` is contiguous. (outer, middle, inner) is (z, y, x) for planes and (y, x, z)
// for channels-last. Strides in elements.
struct Volume {
  int64_t batch, parts, outer, middle, inner;
  int64_t batch_stride, part_stride, outer_stride, middle_stride;
};

// Floats of scratch that the forward needs.
int64_t soft_argmax_3d_scratch(Storage storage, const void* volume, const Volume* shape, int64_t parts);

// order [parts] on the host -> xyz [B, parts, 3], statistics [B, parts, 5] (reference, sum, x, y, z).
Status soft_argmax_3d(Storage storage, const void* volume, const Volume* shape, const int64_t* order, int64_t parts,
                      bool channels_last, float* scratch, float* xyz, float* statistics, Stream stream);

// gradient [B, parts, 3]; `output`, of shape `to`, for every part of the volume: zeros where `order` leaves one out.
Status soft_argmax_3d_backward(Storage storage, const float* gradient, const void* volume, const Volume* shape,
                               const float* statistics, const int64_t* order, int64_t parts, bool channels_last,
                               void* output, const Volume* to, Stream stream);

Facts soft_argmax_3d_facts();

}  // namespace partnas::cuda
