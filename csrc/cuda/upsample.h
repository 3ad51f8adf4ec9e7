// upsample on a GPU. Maps are channels-last; height and width are those of the small map.
#pragma once

#include <stdint.h>

#include "common/cuda.h"
#include "common/storage.h"

namespace partnas::cuda {

// Whether rows of the large map, and rows of the whole batch, are few and short enough to be counted in int.
bool upsample_fits(int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t factor);

// small [B, H, W, C] -> large [B, factor * H, factor * W, C]; factor is 2 or 4.
Status upsample(Storage storage, const void* small, int64_t batch, int64_t height, int64_t width, int64_t channels,
                int64_t factor, void* large, Stream stream);

// The gradient of the large map -> that of the small one.
Status upsample_backward(Storage storage, const void* large, int64_t batch, int64_t height, int64_t width,
                         int64_t channels, int64_t factor, void* small, Stream stream);

Facts upsample_facts();

}  // namespace partnas::cuda
