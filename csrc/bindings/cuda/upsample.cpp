// upsample on a GPU: layouts and allocation around the kernels of csrc/cuda/upsample.cu.
#include "cuda/upsample.h"

#include "common/cuda_tensor.h"

namespace partnas::cuda {
namespace {

void check_sizes(int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t factor, const char* name) {
  STD_TORCH_CHECK(upsample_fits(batch, height, width, channels, factor), name,
                  ": 2^30 numbers or more in a row of the large map, or as many rows, are for the reference");
}

Tensor forward(Tensor input, int64_t factor) {
  STD_TORCH_CHECK(factor == 2 || factor == 4, "upsample: factor ", factor, " is neither 2 nor 4");
  const Storage storage = storage_of(input, "upsample");
  const DeviceGuard guard(input);
  const Tensor x = channels_last(input, "upsample");
  const int64_t batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  check_sizes(batch, height, width, channels, factor, "upsample");
  Tensor output = empty_map(x, batch, channels, factor * height, factor * width, x.scalar_type());
  check(upsample(storage, x.data_ptr(), batch, height, width, channels, factor, output.data_ptr(), current_stream(x)),
        "upsample");
  return output;
}

Tensor backward(Tensor input, int64_t factor) {
  STD_TORCH_CHECK(factor == 2 || factor == 4, "upsample_backward: factor ", factor, " is neither 2 nor 4");
  const Storage storage = storage_of(input, "upsample_backward");
  const DeviceGuard guard(input);
  const Tensor g = channels_last(input, "upsample_backward");
  STD_TORCH_CHECK(g.size(2) % factor == 0 && g.size(3) % factor == 0,
                  "upsample_backward: the sides of the gradient must be multiples of ", factor);
  const int64_t batch = g.size(0), channels = g.size(1), height = g.size(2) / factor, width = g.size(3) / factor;
  check_sizes(batch, height, width, channels, factor, "upsample_backward");
  Tensor gradient = empty_map(g, batch, channels, height, width, g.scalar_type());
  check(upsample_backward(storage, g.data_ptr(), batch, height, width, channels, factor, gradient.data_ptr(),
                          current_stream(g)),
        "upsample_backward");
  return gradient;
}

}  // namespace
}  // namespace partnas::cuda

STABLE_TORCH_LIBRARY_IMPL(partnas, CUDA, m) {
  m.impl("upsample", TORCH_BOX(&partnas::cuda::forward));
  m.impl("upsample_backward", TORCH_BOX(&partnas::cuda::backward));
}
