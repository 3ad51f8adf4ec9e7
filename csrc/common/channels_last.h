// Maps [B, C, H, W] in channels-last memory, for the files that face PyTorch.
#pragma once

#include <numeric>

#include "common/row_shape.h"
#include "common/tensor.h"

namespace partnas {

inline std::vector<int64_t> channels_last_strides(int64_t channels, int64_t height, int64_t width) {
  return {height * width * channels, 1, width * channels, channels};
}

inline bool is_channels_last(const Tensor& x) {
  const auto strides = channels_last_strides(x.size(1), x.size(2), x.size(3));
  for (int64_t d = 0; d < 4; ++d)
    if (x.size(d) != 1 && x.stride(d) != strides[static_cast<size_t>(d)]) return false;
  return true;
}

inline Tensor empty_map(int64_t batch, int64_t channels, int64_t height, int64_t width, ScalarType type) {
  Tensor result =
      empty_strided({batch, channels, height, width}, channels_last_strides(channels, height, width), type);
  if (result.numel() > 0) advise_huge_pages(result);
  return result;
}

inline Tensor empty_like_map(const Tensor& x) {
  return empty_map(x.size(0), x.size(1), x.size(2), x.size(3), x.scalar_type());
}

// The map itself where it is channels-last, else a copy that is.
inline Tensor channels_last(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4, name, ": maps must be (B, C, H, W), got ", x.dim(), " dimensions");
  if (x.numel() == 0 || is_channels_last(x)) return x;
  Tensor copy = empty_like_map(x);
  return torch::stable::copy_(copy, x);
}

// Rows of as many pixels as fill vectors of 16 and make an inner loop of 128 elements. Channels that would need very long
// rows for that are left to fill their last vector badly.
inline RowShape row_shape(int64_t channels) {
  const int64_t filled = channels / std::gcd<int64_t>(channels, 16) * 16;
  const int64_t length = filled > 2048 ? channels : filled * ((127 + filled) / filled);
  return {channels, length, (length + 15) / 16 * 16};
}

// Per-channel numbers [rows, channels] repeated along a row: [rows, room].
inline std::vector<float> along_rows(const std::vector<double>& numbers, const RowShape& shape) {
  const int64_t rows = static_cast<int64_t>(numbers.size()) / shape.channels;
  std::vector<float> result(static_cast<size_t>(rows * shape.room), 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    const double* from = numbers.data() + r * shape.channels;
    float* to = result.data() + r * shape.room;
    for (int64_t pixel = 0; pixel < shape.length; pixel += shape.channels)
      for (int64_t c = 0; c < shape.channels; ++c) to[pixel + c] = static_cast<float>(from[c]);
  }
  return result;
}

// Segments that sums over `units` rows of `elements` numbers in all are cut into; by the shape alone, so that the result
// does not depend on the threads.
inline int64_t segments_of(int64_t elements, int64_t units) {
  constexpr int64_t largest = 16, least_elements = 1 << 16;
  return std::max<int64_t>(1, std::min({elements / least_elements, largest, units}));
}

}  // namespace partnas
