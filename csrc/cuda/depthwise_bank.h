// depthwise_bank on CUDA: launchers, over channels-last maps of one storage type.
#pragma once

#include <stdint.h>

#include "common/cuda.h"
#include "common/storage.h"

namespace partnas::cuda {

// x [B, C, H, W] and how many filters read it; the maps are [B, C, ceil(H / stride), ceil(W / stride)].
struct BankShape {
  int64_t batch, channels, height, width, stride, filters;
};

// Size 3 or 5, dilation 1 or 2. Whether the weight needs a gradient matters to the backward alone.
struct BankFilter {
  int64_t size, dilation, needs_weight;
};

// Of the device that is to run: multiprocessors, and shared memory that one block may take.
struct BankDevice {
  int64_t multiprocessors, shared_bytes;
};
BankDevice bank_device();

// statistics [2, C], scale and shift [C], null where there are none; weights [C, size, size]. Pointers to pointers and
// filters are read on the host. The backward takes those filters alone that anything is asked of.
Status depthwise_bank(Storage storage, const BankShape& shape, const BankFilter* filters, const BankDevice& device,
                      const void* x, const float* const* weights, const float* statistics, const float* scale,
                      const float* shift, float eps, bool relu, void* const* maps, Stream stream);

// Null is what nobody asked for: x_gradient like x, scale_gradient and shift_gradient [C], weight_gradients like the
// weights. before_norm: see schemas.cpp. workspace: `room` floats, as many as depthwise_bank_workspace tells.
Status depthwise_bank_backward(Storage storage, const BankShape& shape, const BankFilter* filters,
                               const BankDevice& device, const void* const* gradients, const void* x,
                               const float* const* weights, const float* statistics, const float* scale,
                               const float* shift, float eps, bool relu, bool before_norm, void* x_gradient,
                               float* scale_gradient, float* shift_gradient, float* const* weight_gradients,
                               float* workspace, int64_t room, Stream stream);
int64_t depthwise_bank_workspace(Storage storage, const BankShape& shape, const BankFilter* filters,
                                 const BankDevice& device);

Facts depthwise_bank_facts();

}  // namespace partnas::cuda
