// The pools and their backward on a GPU: layouts and allocation around csrc/cuda/pool_pair.cu.
#include "cuda/pool_pair.h"

#include <optional>
#include <tuple>

#include "common/cuda_tensor.h"
#include "common/pool_pair.h"

namespace partnas::cuda {
namespace {

PoolShape pool_shape(const Tensor& x, int64_t stride, const char* name) {
  check_pool(x, stride, name);
  const PoolShape shape{x.size(0), x.size(1), x.size(2), x.size(3), stride};
  STD_TORCH_CHECK(pool_fits(shape), name,
                  ": more than 2^30 numbers in a row of x, or 2^30 rows in an image, are for the reference");
  return shape;
}

Tensor empty_pool(const Tensor& x, const PoolShape& shape) {
  return empty_map(x, shape.batch, shape.channels, shape.output_height(), shape.output_width(), x.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> both(Tensor input, int64_t stride) {
  constexpr const char* name = "pool_pair";
  const PoolShape shape = pool_shape(input, stride, name);
  const Storage storage = storage_of(input, name);
  const DeviceGuard guard(input);
  const Tensor x = channels_last(input, name);
  Tensor max_map = empty_pool(x, shape), avg_map = empty_pool(x, shape);
  Tensor statistics = empty(x, {2, 2, shape.channels}, ScalarType::Float);
  const Tensor scratch = empty(x, {pool_pair_scratch(storage, shape)}, ScalarType::Float);
  check(pool_pair(storage, shape, x.data_ptr(), data<float>(scratch), max_map.data_ptr(), avg_map.data_ptr(),
                  data<float>(statistics), current_stream(x)),
        name);
  return {max_map, avg_map, statistics};
}

Tensor one(Tensor input, bool takes_max, int64_t stride) {
  constexpr const char* name = "pool";
  const PoolShape shape = pool_shape(input, stride, name);
  const Storage storage = storage_of(input, name);
  const DeviceGuard guard(input);
  const Tensor x = channels_last(input, name);
  Tensor map = empty_pool(x, shape);
  check(pool(storage, shape, takes_max, x.data_ptr(), map.data_ptr(), current_stream(x)), name);
  return map;
}

// One of the gradients may be missing.
Tensor backward(const char* name, const Tensor* max_gradient, const Tensor* avg_gradient, const Tensor& input,
                int64_t stride) {
  const PoolShape shape = pool_shape(input, stride, name);
  const Storage storage = storage_of(input, name);
  const DeviceGuard guard(input);
  const auto checked = [&](const Tensor* g) {
    if (!g) return std::optional<Tensor>();
    check_device(input, *g, name);
    check_pool_gradient(*g, input, shape.output_height(), shape.output_width(), name);
    return std::optional(channels_last(*g, name));
  };
  const std::optional<Tensor> of_max = checked(max_gradient), of_avg = checked(avg_gradient);
  const Tensor x = max_gradient ? channels_last(input, name) : input;
  Tensor gradient = empty_like_map(x);
  check(pool_pair_backward(storage, shape, of_max ? of_max->data_ptr() : nullptr,
                           of_avg ? of_avg->data_ptr() : nullptr, x.data_ptr(), gradient.data_ptr(),
                           current_stream(x)),
        name);
  return gradient;
}

Tensor both_backward(Tensor max_gradient, Tensor avg_gradient, Tensor input, int64_t stride) {
  return backward("pool_pair_backward", &max_gradient, &avg_gradient, input, stride);
}

Tensor one_backward(Tensor gradient, Tensor input, bool takes_max, int64_t stride) {
  return backward("pool_backward", takes_max ? &gradient : nullptr, takes_max ? nullptr : &gradient, input, stride);
}

}  // namespace
}  // namespace partnas::cuda

STABLE_TORCH_LIBRARY_IMPL(partnas, CUDA, m) {
  m.impl("pool_pair", TORCH_BOX(&partnas::cuda::both));
  m.impl("pool_pair_backward", TORCH_BOX(&partnas::cuda::both_backward));
  m.impl("pool", TORCH_BOX(&partnas::cuda::one));
  m.impl("pool_backward", TORCH_BOX(&partnas::cuda::one_backward));
}
