// How soft_argmax_3d takes its volumes, for the files that face PyTorch.
#pragma once

#include "common/tensor.h"

namespace partnas {

enum class VolumeLayout { planes, channels_last };

inline void check_volume(const Tensor& volume, const std::vector<int64_t>& order) {
  STD_TORCH_CHECK(volume.dim() == 5, "soft_argmax_3d: volume must be (B, P, D, H, W), got ", volume.dim(),
                  " dimensions");
  STD_TORCH_CHECK(volume.size(2) > 0 && volume.size(3) > 0 && volume.size(4) > 0,
                  "soft_argmax_3d: depth, height and width must be at least 1");
  for (const int64_t part : order)
    STD_TORCH_CHECK(part >= 0 && part < volume.size(1), "soft_argmax_3d: order names part ", part, " of ",
                    volume.size(1));
}

inline void check_backward(const Tensor& gradient, const Tensor& volume, const Tensor& statistics, int64_t parts) {
  STD_TORCH_CHECK(
      gradient.dim() == 3 && gradient.size(0) == volume.size(0) && gradient.size(1) == parts && gradient.size(2) == 3,
      "soft_argmax_3d_backward: gradient must be (B, len(order), 3)");
  STD_TORCH_CHECK(statistics.dim() == 3 && statistics.size(0) == volume.size(0) && statistics.size(1) == parts &&
                      statistics.size(2) == 5,
                  "soft_argmax_3d_backward: statistics must be (B, len(order), 5)");
}

// The layout that the kernels walk a volume in; none where its strides are neither, and a contiguous copy is needed.
inline std::optional<VolumeLayout> layout_of(const Tensor& v) {
  const bool rows = v.stride(4) == 1 || v.size(4) == 1;
  const bool columns = v.stride(2) == 1 || v.size(2) == 1;
  if (rows && !(columns && v.size(2) > v.size(4))) return VolumeLayout::planes;
  if (columns) return VolumeLayout::channels_last;
  return std::nullopt;
}

// Those of a volume's gradient.
inline std::vector<int64_t> volume_strides(const std::vector<int64_t>& sizes, VolumeLayout layout) {
  if (layout == VolumeLayout::planes) return contiguous_strides(sizes);
  const int64_t parts = sizes[1], depth = sizes[2], height = sizes[3], width = sizes[4];
  return {height * width * parts * depth, depth, 1, width * parts * depth, parts * depth};
}

}  // namespace partnas
