// How channel_shuffle takes its tensors, for the files that face PyTorch.
#pragma once

#include <algorithm>

#include "common/tensor.h"

namespace partnas {

inline void check_shuffle(const Tensor& x, int64_t groups, const std::vector<int64_t>& order, int64_t depth) {
  STD_TORCH_CHECK(x.dim() >= 2, "channel_shuffle: x must be (B, C, ...)");
  STD_TORCH_CHECK(depth >= 1 && x.size(1) % depth == 0, "channel_shuffle: ", x.size(1),
                  " channels do not divide into runs of depth ", depth);
  const int64_t runs = x.size(1) / depth;
  if (groups > 0) {
    STD_TORCH_CHECK(order.empty() && runs % groups == 0, "channel_shuffle: give an order, or a number of groups "
                    "that divides ", runs, " runs");
  } else {
    STD_TORCH_CHECK(static_cast<int64_t>(order.size()) == runs, "channel_shuffle: order has ", order.size(), " of ",
                    runs, " runs");
  }
  for (const int64_t run : order)
    STD_TORCH_CHECK(run >= 0 && run < runs, "channel_shuffle: order names run ", run, " of ", runs);
}

// Whether x of 4 or 5 dimensions is dense with its channels innermost, and not contiguous as well.
inline bool has_inner_channels(const Tensor& x) {
  if (x.is_contiguous() || (x.dim() != 4 && x.dim() != 5)) return false;
  int64_t expected = 1;
  const auto matches = [&](int64_t d) {
    const bool same = x.size(d) == 1 || x.stride(d) == expected;
    expected *= x.size(d);
    return same;
  };
  bool same = matches(1);
  for (int64_t d = x.dim() - 1; d >= 2; --d) same = same && matches(d);
  return same && matches(0);
}

inline std::vector<int64_t> shuffle_strides(const Tensor& x, bool inner_channels) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  if (!inner_channels) return contiguous_strides(sizes);
  std::rotate(sizes.begin() + 1, sizes.begin() + 2, sizes.end());
  std::vector<int64_t> strides = contiguous_strides(sizes);
  std::rotate(strides.begin() + 1, strides.end() - 1, strides.end());
  return strides;
}

}  // namespace partnas
