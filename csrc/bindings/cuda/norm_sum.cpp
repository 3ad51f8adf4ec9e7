// norm_stats, norm_sum and its backward on a GPU: layouts and allocation around csrc/cuda/norm_sum.cu.
#include "cuda/norm_sum.h"

#include <optional>
#include <tuple>
#include <vector>

#include "common/cuda_tensor.h"
#include "common/norm_sum.h"

namespace partnas::cuda {
namespace {

// Maps of one dtype on one device, channels-last, and of one shape unless `any_size`.
class Maps {
 public:
  Maps(const Tensor& first, const char* name, bool any_size = false)
      : storage(storage_of(first, name)), name_(name), any_size_(any_size), first_(first) {}

  const Tensor& add(const Tensor& x) {
    check_device(first_, x, name_);
    if (any_size_) {
      STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == first_.scalar_type() && x.size(1) == first_.size(1), name_,
                      ": all maps must be (B, C, H, W) of one dtype and the same channels");
    } else {
      check_map(x, first_, name_);
    }
    kept_.push_back(channels_last(x, name_));
    return kept_.back();
  }

  // Of one after the other; they stay alive with this.
  std::vector<const void*> add(const std::vector<Tensor>& maps) {
    std::vector<const void*> pointers;
    for (const Tensor& x : maps) pointers.push_back(add(x).data_ptr());
    return pointers;
  }

  Storage storage;

 private:
  const char* name_;
  bool any_size_;
  Tensor first_;
  std::vector<Tensor> kept_;
};

// Statistics or weights as the kernels read them: float32 in order, on the device of the maps.
Tensor floats(const Tensor& like, const Tensor& x, const char* name) {
  check_device(like, x, name);
  if (x.scalar_type() == ScalarType::Float) return as_contiguous(x);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Double, name, ": statistics and weights must be float32 or float64");
  const auto sizes = x.sizes();
  Tensor copy = empty(like, {sizes.begin(), sizes.end()}, ScalarType::Float);
  return torch::stable::copy_(copy, x);
}

int count_of(const char* name, size_t maps, size_t identities = 0) {
  STD_TORCH_CHECK(maps + identities <= static_cast<size_t>(most_branches), name, ": at most ", most_branches,
                  " maps and identities at once on a GPU, got ", maps + identities);
  return static_cast<int>(maps);
}

int64_t rows_of(const Tensor& x) { return x.size(0) * x.size(2) * x.size(3); }

Tensor measured(std::vector<Tensor> maps) {
  constexpr const char* name = "norm_stats";
  STD_TORCH_CHECK(!maps.empty(), name, ": give at least one map");
  STD_TORCH_CHECK(maps[0].dim() == 4, name, ": maps must be (B, C, H, W)");
  const int count = count_of(name, maps.size());
  const DeviceGuard guard(maps[0]);
  const int64_t channels = maps[0].size(1);
  Tensor statistics = empty(maps[0], {count, 2, channels}, ScalarType::Float);
  Maps inputs(maps[0], name, true);
  const std::vector<const void*> pointers = inputs.add(maps);
  std::vector<int64_t> rows;
  for (const Tensor& x : maps) rows.push_back(rows_of(x));
  const Tensor scratch =
      empty(maps[0], {norm_stats_scratch(inputs.storage, rows.data(), count, channels)}, ScalarType::Float);
  check(norm_stats(inputs.storage, pointers.data(), rows.data(), count, channels, data<float>(scratch),
                   data<float>(statistics), current_stream(maps[0])),
        name);
  return statistics;
}

Tensor summed(std::vector<Tensor> maps, Tensor statistics, Tensor weights, std::vector<Tensor> identities,
              Tensor identity_weights, std::optional<Tensor> shift, double eps) {
  constexpr const char* name = "norm_sum";
  const Tensor& like = check_norm_sum(maps, statistics, weights, identities, identity_weights, shift);
  const int count = count_of(name, maps.size(), identities.size());
  const int64_t channels = like.size(1);
  const DeviceGuard guard(like);
  Tensor output = empty_like_map(like);
  Maps inputs(like, name);
  std::vector<Tensor> all = maps;
  all.insert(all.end(), identities.begin(), identities.end());
  const std::vector<const void*> pointers = inputs.add(all);
  const Tensor s = floats(like, statistics, name), w = floats(like, weights, name),
               v = floats(like, identity_weights, name);
  const std::optional<Tensor> offset = shift ? std::optional(floats(like, *shift, name)) : std::nullopt;
  check(norm_sum(inputs.storage, pointers.data(), count, static_cast<int>(identities.size()), data<float>(s),
                 data<float>(w), data<float>(v), offset ? data<float>(*offset) : nullptr, rows_of(like), channels,
                 static_cast<float>(eps), output.data_ptr(), current_stream(like)),
        name);
  return output;
}

std::tuple<Tensor, Tensor> reduced(Tensor gradient, std::vector<Tensor> maps, Tensor statistics,
                                   std::vector<Tensor> identities) {
  constexpr const char* name = "norm_sum_reduce";
  check_gradient(gradient, maps, statistics, name);
  const int count = count_of(name, maps.size(), identities.size()), skips = static_cast<int>(identities.size());
  const int64_t channels = gradient.size(1), rows = rows_of(gradient);
  const DeviceGuard guard(gradient);
  Tensor sums = empty(gradient, {count + 1, channels}, ScalarType::Float);
  Tensor dots = empty(gradient, {skips}, ScalarType::Float);
  Maps inputs(gradient, name);
  const void* g = inputs.add(gradient).data_ptr();
  std::vector<Tensor> all = maps;
  all.insert(all.end(), identities.begin(), identities.end());
  const std::vector<const void*> pointers = inputs.add(all);
  const Tensor s = floats(gradient, statistics, name);
  const Tensor scratch = empty(
      gradient, {norm_sum_reduce_scratch(inputs.storage, count, skips, rows, channels)}, ScalarType::Float);
  check(norm_sum_reduce(inputs.storage, g, pointers.data(), count, skips, data<float>(s), rows, channels,
                        data<float>(scratch), data<float>(sums), data<float>(dots), current_stream(gradient)),
        name);
  return {sums, dots};
}

std::vector<Tensor> backward(Tensor gradient, std::vector<Tensor> maps, Tensor statistics, Tensor weights,
                             Tensor means, Tensor identity_weights, std::vector<int64_t> wanted,
                             std::vector<int64_t> wanted_identities, double eps) {
  constexpr const char* name = "norm_sum_backward";
  check_norm_sum_backward(gradient, maps, statistics, weights, means, identity_weights, wanted, wanted_identities);
  const int64_t channels = gradient.size(1);
  std::vector<Tensor> of_wanted;
  for (const int64_t k : wanted) of_wanted.push_back(maps[static_cast<size_t>(k)]);
  const int wanted_count = count_of(name, wanted.size(), wanted_identities.size());

  const DeviceGuard guard(gradient);
  std::vector<Tensor> gradients;
  std::vector<void*> outputs;
  for (size_t i = 0; i < wanted.size() + wanted_identities.size(); ++i) {
    gradients.push_back(empty_like_map(gradient));
    outputs.push_back(gradients.back().data_ptr());
  }
  if (gradients.empty()) return gradients;
  Maps inputs(gradient, name);
  const void* g = inputs.add(gradient).data_ptr();
  const std::vector<const void*> pointers = inputs.add(of_wanted);
  const Tensor s = floats(gradient, statistics, name), w = floats(gradient, weights, name),
               m = floats(gradient, means, name), v = floats(gradient, identity_weights, name);
  check(norm_sum_backward(inputs.storage, g, pointers.data(), wanted.data(), wanted_count,
                          wanted_identities.data(), static_cast<int>(wanted_identities.size()), data<float>(s),
                          data<float>(w), data<float>(m), data<float>(v), rows_of(gradient), channels,
                          static_cast<float>(eps), outputs.data(), current_stream(gradient)),
        name);
  return gradients;
}

}  // namespace
}  // namespace partnas::cuda

STABLE_TORCH_LIBRARY_IMPL(partnas, CUDA, m) {
  m.impl("norm_stats", TORCH_BOX(&partnas::cuda::measured));
  m.impl("norm_sum", TORCH_BOX(&partnas::cuda::summed));
  m.impl("norm_sum_reduce", TORCH_BOX(&partnas::cuda::reduced));
  m.impl("norm_sum_backward", TORCH_BOX(&partnas::cuda::backward));
}
