// channel_shuffle on a GPU: layouts and allocation around the kernels of csrc/cuda/channel_shuffle.cu.
#include "cuda/channel_shuffle.h"

#include "common/channel_shuffle.h"
#include "common/cuda_tensor.h"

namespace partnas::cuda {
namespace {

Tensor shuffle(Tensor input, int64_t groups, std::vector<int64_t> order, int64_t depth) {
  check_shuffle(input, groups, order, depth);
  const DeviceGuard guard(input);
  const bool inner_channels = has_inner_channels(input);
  const Tensor x = inner_channels ? input : as_contiguous(input);
  const auto sizes = x.sizes();
  Tensor output = empty_strided(x, {sizes.begin(), sizes.end()}, shuffle_strides(x, inner_channels), x.scalar_type());
  if (output.numel() == 0) return output;
  const int64_t pixels = inner_channels ? x.numel() / x.size(1) : x.size(0), runs = x.size(1) / depth;
  const int64_t run_bytes = x.numel() / pixels / runs * static_cast<int64_t>(x.element_size());
  STD_TORCH_CHECK(channel_shuffle_fits(x.data_ptr(), output.data_ptr(), runs, run_bytes),
                  "channel_shuffle: more than 2^31 - 1025 runs, or units of 1 to 16 bytes in a run, "
                  "are for the reference");
  check(channel_shuffle(x.data_ptr(), output.data_ptr(), pixels, runs, run_bytes, groups, order.data(),
                        current_stream(x)),
        "channel_shuffle");
  return output;
}

}  // namespace
}  // namespace partnas::cuda

STABLE_TORCH_LIBRARY_IMPL(partnas, CUDA, m) { m.impl("channel_shuffle", TORCH_BOX(&partnas::cuda::shuffle)); }
