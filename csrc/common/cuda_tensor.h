// Small helpers over stable tensors on a GPU, for the files that face PyTorch.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/device.h>

#include "common/channels_last.h"
#include "common/cuda.h"

namespace partnas::cuda {

// Makes the device of a tensor the current one while it lives. One per operator, before its launches.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Tensor& x) : guard_(x.get_device_index()) {}

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

inline Stream current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

inline void check(Status status, const char* name) {
  STD_TORCH_CHECK(status == success, name, ": CUDA says: ", describe(status), " (error ", status, ")");
}

// All kernels of an operator read from one device.
inline void check_device(const Tensor& x, const Tensor& other, const char* name) {
  STD_TORCH_CHECK(other.is_cuda() && other.get_device_index() == x.get_device_index(), name,
                  ": tensors are on different devices");
}

// New tensors on the device of `like`, from PyTorch's allocator; scratch too.
inline Tensor empty_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                            ScalarType type) {
  using torch::stable::detail::from;
  const torch::stable::Device device(torch::stable::DeviceType::CUDA, like.get_device_index());
  std::array<StableIValue, 6> stack{from(sizes),        from(strides),               from(std::optional(type)),
                                    from(std::nullopt), from(std::optional(device)), from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_strided", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType type) {
  return empty_strided(like, sizes, contiguous_strides(sizes), type);
}

// [B, C, H, W], channels-last.
inline Tensor empty_map(const Tensor& like, int64_t batch, int64_t channels, int64_t height, int64_t width,
                        ScalarType type) {
  return empty_strided(like, {batch, channels, height, width}, channels_last_strides(channels, height, width), type);
}

inline Tensor empty_like_map(const Tensor& x) {
  return empty_map(x, x.size(0), x.size(1), x.size(2), x.size(3), x.scalar_type());
}

inline Tensor contiguous_copy(const Tensor& x) {
  const auto sizes = x.sizes();
  Tensor copy = empty(x, {sizes.begin(), sizes.end()}, x.scalar_type());
  return torch::stable::copy_(copy, x);
}

inline Tensor as_contiguous(const Tensor& x) { return x.is_contiguous() ? x : contiguous_copy(x); }

// The map itself where it is channels-last, else a copy that is.
inline Tensor channels_last(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4, name, ": maps must be (B, C, H, W), got ", x.dim(), " dimensions");
  if (x.numel() == 0 || is_channels_last(x)) return x;
  Tensor copy = empty_like_map(x);
  return torch::stable::copy_(copy, x);
}

// The storage that kernels take; float64 is for the reference.
inline Storage storage_of(const Tensor& x, const char* name) {
  const Storage storage = partnas::storage_of(x, name);
  STD_TORCH_CHECK(storage != Storage::float64, name, ": float64 is left to the reference on a GPU");
  return storage;
}

template <typename T>
T* data(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

}  // namespace partnas::cuda
