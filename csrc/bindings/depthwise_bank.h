// A call of depthwise_bank on the CPU: what its kernels are told, and the memory that they work in.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "common/channels_last.h"
#include "common/depthwise_bank.h"
#include "cpu/depthwise_bank.h"

namespace partnas {

// Multiply-adds that are worth a thread.
constexpr int64_t bank_grain = 1 << 19;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The kernels of the widest vectors that the channels fill.
struct BankKernels {
  decltype(&baseline::bank_lanes) lanes;
  decltype(&baseline::bank_scratch) scratch;
  decltype(&baseline::pack_taps) pack;
  decltype(&baseline::unpack_taps) unpack;
  decltype(&baseline::bank_forward) forward;
  decltype(&baseline::bank_backward) backward;
  decltype(&baseline::normalise_gradient) normalise;
};

#define PARTNAS_BANK_KERNELS(capability)                                                                        \
  BankKernels {                                                                                                 \
    capability::bank_lanes, capability::bank_scratch, capability::pack_taps, capability::unpack_taps,           \
        capability::bank_forward, capability::bank_backward, capability::normalise_gradient                     \
  }

inline BankKernels bank_kernels_for(int64_t channels) {
#if defined(__x86_64__)
  if (capability() == Capability::avx512 && channels >= avx512::bank_lanes()) return PARTNAS_BANK_KERNELS(avx512);
  if (capability() != Capability::baseline && channels >= avx2::bank_lanes()) return PARTNAS_BANK_KERNELS(avx2);
#endif
  (void)channels;
  return PARTNAS_BANK_KERNELS(baseline);
}

// Memory that a thread keeps, because fresh memory is slow.
enum class Purpose { scratch, taps, sums, maps, products };

template <Purpose>
float* workspace(int64_t count) {
  thread_local std::vector<float> memory;
  constexpr size_t line = 64 / sizeof(float);
  if (memory.size() < static_cast<size_t>(count) + line) memory.resize(static_cast<size_t>(count) + line);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  return memory.data() + (64 - address % 64) % 64 / sizeof(float);
}

// A bank and all that it points to.
struct BankCall {
  const char* name;
  Bank bank{};
  BankKernels kernels;
  int64_t batch;
  Tensor x;
  std::vector<Filter> filters;
  std::vector<Tensor> kept;
  std::vector<const float*> weights;
  std::vector<float> mean, rstd, factor, offset;

  const float* numbers(const Tensor& t) {
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, name,
                    ": weights, statistics, scale and shift must be float32");
    kept.push_back(t.is_contiguous() ? t : contiguous_copy(t));
    return static_cast<const float*>(kept.back().data_ptr());
  }

  BankCall(const char* name, const Tensor& input, const std::vector<Tensor>& filter_weights,
           const std::vector<int64_t>& dilations, int64_t stride, const std::optional<Tensor>& statistics,
           const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, double eps, bool relu)
      : name(name), kernels(bank_kernels_for(input.dim() == 4 ? input.size(1) : 0)), x(input) {
    check_bank(input, filter_weights, dilations, stride, statistics, scale, shift, name);
    bank.storage = storage_of(input, name);
    STD_TORCH_CHECK(bank.storage != Storage::float64, name, ": float64 runs on the reference backend");
    x = channels_last(input, name);
    batch = x.size(0);
    bank.channels = x.size(1), bank.height = x.size(2), bank.width = x.size(3), bank.stride = stride;
    bank.output_height = ceil_div(bank.height, stride), bank.output_width = ceil_div(bank.width, stride);
    bank.relu = relu;
    for (size_t f = 0; f < dilations.size(); ++f) {
      const Tensor& w = filter_weights[f];
      filters.push_back({w.size(1), dilations[f], bank.taps, false});
      bank.taps += w.size(1) * w.size(1);
      bank.reach = std::max(bank.reach, w.size(1) / 2 * dilations[f]);
      weights.push_back(numbers(w));
    }
    bank.filters = filters.data(), bank.count = static_cast<int64_t>(filters.size());
    set_prologue(statistics, scale, shift, eps);
  }
  BankCall(const BankCall&) = delete;

  void set_prologue(const std::optional<Tensor>& statistics, const std::optional<Tensor>& scale,
                    const std::optional<Tensor>& shift, double eps) {
    const auto channels = static_cast<size_t>(bank.channels);
    if (statistics) {
      const float* from = numbers(*statistics);
      mean.assign(from, from + channels);
      for (size_t c = 0; c < channels; ++c)
        rstd.push_back(static_cast<float>(1 / std::sqrt(static_cast<double>(from[channels + c]) + eps)));
      factor = rstd;
      bank.mean = mean.data();
    }
    if (scale) {
      const float *scales = numbers(*scale), *shifts = numbers(*shift);
      if (factor.empty()) factor.assign(channels, 1.0f);
      for (size_t c = 0; c < channels; ++c) factor[c] *= scales[c];
      offset.assign(shifts, shifts + channels);
      bank.offset = offset.data();
    }
    if (!factor.empty()) bank.factor = factor.data();
  }

  // A new map of the size of the results.
  Tensor empty(int64_t channels) const {
    return empty_map(batch, channels, bank.output_height, bank.output_width, x.scalar_type());
  }

  int64_t vectors() const { return ceil_div(bank.channels, kernels.lanes()); }
  // Vectors that overlap belong to one task, so that no two threads write the same channel.
  int64_t units() const { return std::max<int64_t>(1, bank.channels / kernels.lanes()); }

  float* packed_taps() const {
    const int64_t block = bank.taps * kernels.lanes(), count = vectors();
    float* taps = workspace<Purpose::taps>(count * block);
    torch::stable::parallel_for(0, count, std::max<int64_t>(1, bank_grain / 8 / std::max<int64_t>(block, 1)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t v = begin; v < end; ++v) kernels.pack(bank, weights.data(), v, taps + v * block);
                 });
    return taps;
  }
};

}  // namespace partnas
