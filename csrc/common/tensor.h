// Small helpers over the stable tensor, for the files that face PyTorch.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/storage.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace partnas {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Whether results are so large that they will have left the caches near the core when they are read: kernels write them past
// all caches then, which spares memory the read before the write.
inline bool worth_streaming(const std::vector<Tensor>& results) {
  int64_t bytes = 0;
  for (const Tensor& t : results) bytes += t.numel() * static_cast<int64_t>(t.element_size());
  return bytes >= (4 << 20);
}

// Through the dispatcher, unlike aoti_torch_empty_strided: PyTorch then fills it with NaN where it is told to.
inline Tensor empty_strided(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType type) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(sizes),        from(strides),      from(std::optional(type)),
                                    from(std::nullopt), from(std::nullopt), from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_strided", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * std::max<int64_t>(sizes[i], 1);
  return strides;
}

inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType type) {
  return empty_strided(sizes, contiguous_strides(sizes), type);
}

inline Tensor contiguous_copy(const Tensor& x) {
  const auto sizes = x.sizes();
  Tensor copy = empty({sizes.begin(), sizes.end()}, x.scalar_type());
  return torch::stable::copy_(copy, x);
}

inline Storage storage_of(const Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return Storage::float64;
    case ScalarType::Float: return Storage::float32;
    case ScalarType::BFloat16: return Storage::bfloat16;
    case ScalarType::Half: return Storage::float16;
    default: STD_TORCH_CHECK(false, name, ": dtype must be float32, bfloat16, float16 or float64");
  }
}

inline void zero(const Tensor& t) {
  auto* bytes = static_cast<char*>(t.data_ptr());
  std::fill(bytes, bytes + t.numel() * static_cast<int64_t>(t.element_size()), 0);
}

// Fresh memory costs a page fault every 4 KB on its first write, more than the write itself; huge pages make it 2 MB.
inline void advise_huge_pages(const Tensor& x) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 2 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(x.data_ptr());
  const auto end = begin + static_cast<uintptr_t>(x.numel()) * x.element_size();
  const auto first = (begin + page - 1) / page * page;
  if (first + page <= end) madvise(reinterpret_cast<void*>(first), end / page * page - first, MADV_HUGEPAGE);
#endif
}

}  // namespace partnas
