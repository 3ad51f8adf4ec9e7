// soft_argmax_3d on a GPU: layouts and allocation around the kernels of csrc/cuda/soft_argmax_3d.cu.
#include "cuda/soft_argmax_3d.h"

#include <tuple>

#include "common/cuda_tensor.h"
#include "common/soft_argmax_3d.h"

namespace partnas::cuda {
namespace {

Volume volume_of(const Tensor& v, VolumeLayout layout) {
  if (layout == VolumeLayout::planes)
    return {v.size(0),   v.size(1),   v.size(2),   v.size(3),  v.size(4),
            v.stride(0), v.stride(1), v.stride(2), v.stride(3)};
  return {v.size(0), v.size(1), v.size(3), v.size(4), v.size(2), v.stride(0), v.stride(1), v.stride(3), v.stride(4)};
}

void check_sizes(const Volume& v) {
  constexpr int64_t most_rows = 1 << 29, most_index = 1 << 23;
  STD_TORCH_CHECK(v.outer <= most_index && v.middle <= most_index && v.outer * v.middle < most_rows,
                  "soft_argmax_3d: more than 2^29 rows in a part, or 2^23 along an axis, are for the reference");
}

Storage checked(const Tensor& volume, const std::vector<int64_t>& order, const char* name) {
  check_volume(volume, order);
  return storage_of(volume, name);
}

std::tuple<Tensor, Tensor> forward(Tensor input, std::vector<int64_t> order) {
  const Storage storage = checked(input, order, "soft_argmax_3d");
  const DeviceGuard guard(input);
  const auto layout = layout_of(input);
  const Tensor volume = layout ? input : contiguous_copy(input);
  const Volume shape = volume_of(volume, layout.value_or(VolumeLayout::planes));
  check_sizes(shape);
  const auto parts = static_cast<int64_t>(order.size());
  Tensor xyz = empty(volume, {shape.batch, parts, 3}, ScalarType::Float);
  Tensor statistics = empty(volume, {shape.batch, parts, 5}, ScalarType::Float);
  if (xyz.numel() == 0) return {xyz, statistics};
  const Tensor scratch =
      empty(volume, {soft_argmax_3d_scratch(storage, volume.data_ptr(), &shape, parts)}, ScalarType::Float);
  check(soft_argmax_3d(storage, volume.data_ptr(), &shape, order.data(), parts,
                             layout == VolumeLayout::channels_last, data<float>(scratch), data<float>(xyz),
                             data<float>(statistics), current_stream(volume)),
        "soft_argmax_3d");
  return {xyz, statistics};
}

Tensor backward(Tensor gradient, Tensor input, Tensor statistics, std::vector<int64_t> order) {
  constexpr const char* name = "soft_argmax_3d_backward";
  const Storage storage = checked(input, order, name);
  const auto parts = static_cast<int64_t>(order.size());
  check_backward(gradient, input, statistics, parts);
  STD_TORCH_CHECK(gradient.scalar_type() == ScalarType::Float && statistics.scalar_type() == ScalarType::Float, name,
                  ": gradient and statistics must be float32");
  check_device(input, gradient, name);
  check_device(input, statistics, name);
  const DeviceGuard guard(input);
  const auto found = layout_of(input);
  const VolumeLayout layout = found.value_or(VolumeLayout::planes);
  const Tensor volume = found ? input : contiguous_copy(input);
  const Volume shape = volume_of(volume, layout);
  check_sizes(shape);
  const std::vector<int64_t> sizes(volume.sizes().begin(), volume.sizes().end());
  Tensor output = empty_strided(volume, sizes, volume_strides(sizes, layout), volume.scalar_type());
  if (output.numel() == 0) return output;
  const Volume to = volume_of(output, layout);
  const Tensor slopes = as_contiguous(gradient), numbers = as_contiguous(statistics);
  check(soft_argmax_3d_backward(storage, data<float>(slopes), volume.data_ptr(), &shape, data<float>(numbers),
                                      order.data(), parts, layout == VolumeLayout::channels_last, output.data_ptr(),
                                      &to, current_stream(volume)),
        name);
  return output;
}

}  // namespace
}  // namespace partnas::cuda

STABLE_TORCH_LIBRARY_IMPL(partnas, CUDA, m) {
  m.impl("soft_argmax_3d", TORCH_BOX(&partnas::cuda::forward));
  m.impl("soft_argmax_3d_backward", TORCH_BOX(&partnas::cuda::backward));
}
