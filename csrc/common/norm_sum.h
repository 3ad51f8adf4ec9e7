// What norm_sum and its backward are given, checked, for the files that face PyTorch.
#pragma once

#include "common/tensor.h"

namespace partnas {

// That a map is of the first one's shape and dtype.
inline void check_map(const Tensor& x, const Tensor& first, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == first.scalar_type(), name,
                  ": all maps must be (B, C, H, W) of one dtype");
  for (int64_t d = 0; d < 4; ++d) STD_TORCH_CHECK(x.size(d) == first.size(d), name, ": all maps must have one shape");
}

inline void check_statistics(const std::vector<Tensor>& maps, const Tensor& statistics, int64_t channels,
                             const char* name) {
  STD_TORCH_CHECK(statistics.dim() == 3 && statistics.size(0) == static_cast<int64_t>(maps.size()) &&
                      statistics.size(1) == 2 && statistics.size(2) == channels,
                  name, ": statistics must be (K, 2, C)");
}

// Returns one of the inputs, which all others are like.
inline const Tensor& check_norm_sum(const std::vector<Tensor>& maps, const Tensor& statistics, const Tensor& weights,
                                    const std::vector<Tensor>& identities, const Tensor& identity_weights,
                                    const std::optional<Tensor>& shift) {
  constexpr const char* name = "norm_sum";
  STD_TORCH_CHECK(!maps.empty() || !identities.empty(), name, ": give at least one map or identity");
  const Tensor& like = maps.empty() ? identities[0] : maps[0];
  STD_TORCH_CHECK(like.dim() == 4, name, ": maps must be (B, C, H, W)");
  const int64_t channels = like.size(1);
  check_statistics(maps, statistics, channels, name);
  STD_TORCH_CHECK(weights.numel() == static_cast<int64_t>(maps.size()) * channels &&
                      identity_weights.numel() == static_cast<int64_t>(identities.size()),
                  name, ": each channel of each map and each identity needs its weight");
  STD_TORCH_CHECK(!shift || shift->numel() == channels, name, ": shift must be (C,)");
  return like;
}

inline void check_gradient(const Tensor& gradient, const std::vector<Tensor>& maps, const Tensor& statistics,
                           const char* name) {
  STD_TORCH_CHECK(gradient.dim() == 4, name, ": the gradient must be (B, C, H, W)");
  check_statistics(maps, statistics, gradient.size(1), name);
}

inline void check_norm_sum_backward(const Tensor& gradient, const std::vector<Tensor>& maps, const Tensor& statistics,
                                    const Tensor& weights, const Tensor& means, const Tensor& identity_weights,
                                    const std::vector<int64_t>& wanted, const std::vector<int64_t>& wanted_identities) {
  constexpr const char* name = "norm_sum_backward";
  check_gradient(gradient, maps, statistics, name);
  const int64_t channels = gradient.size(1), count = static_cast<int64_t>(maps.size());
  STD_TORCH_CHECK(means.numel() == (count + 1) * channels, name, ": means must be (1 + K, C)");
  STD_TORCH_CHECK(weights.numel() == count * channels, name, ": each channel of each map needs its weight");
  for (const int64_t k : wanted) STD_TORCH_CHECK(k >= 0 && k < count, name, ": there is no map ", k);
  for (const int64_t l : wanted_identities)
    STD_TORCH_CHECK(l >= 0 && l < identity_weights.numel(), name, ": there is no identity ", l);
}

}  // namespace partnas
