// channel_shuffle on a GPU.
#pragma once

#include <stdint.h>

#include "common/cuda.h"

namespace partnas::cuda {

// Whether runs, and the units of a run, are few enough to be counted in int. A unit is the largest of 1, 2, 4, 8 and 16
// bytes that divides a run and both addresses.
bool channel_shuffle_fits(const void* input, const void* output, int64_t runs, int64_t run_bytes);

// `pixels` times `runs` runs of `run_bytes` bytes: output run i is input run order[i] of the same pixel, or where
// `groups` is not 0 the runs are interleaved by groups.
// order [runs] on the host. A pixel is a sample where memory is contiguous.
Status channel_shuffle(const void* input, void* output, int64_t pixels, int64_t runs, int64_t run_bytes, int64_t groups,
                       const int64_t* order, Stream stream);

Facts channel_shuffle_facts();

}  // namespace partnas::cuda
