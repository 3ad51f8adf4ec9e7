// pool_pair on the CPU: layouts, allocation and threads around csrc/cpu/pool_pair.cpp.
#include "cpu/pool_pair.h"

#include <optional>
#include <tuple>
#include <vector>

#include "common/channels_last.h"
#include "common/moments.h"
#include "common/pool_pair.h"

namespace partnas {
namespace {

using torch::stable::parallel_for;

constexpr int64_t grain_elements = 1 << 14;

PoolShape pool_shape(const Tensor& x, int64_t stride, const char* name) {
  check_pool(x, stride, name);
  const int64_t height = x.size(2), width = x.size(3);
  return {x.size(1), height, width, stride, (height + stride - 1) / stride, (width + stride - 1) / stride,
          row_shape(x.size(1))};
}

Storage float_storage(const Tensor& x, const char* name) {
  const Storage storage = storage_of(x, name);
  STD_TORCH_CHECK(storage != Storage::float64, name, ": float64 maps are left to the reference");
  return storage;
}

Tensor empty_pool(const Tensor& x, const PoolShape& shape) {
  return empty_map(x.size(0), shape.channels, shape.output_height, shape.output_width, x.scalar_type());
}

// job(begin, end, lines) for all of `rows` rows, each with `lines` floats to work in.
template <typename Job>
void for_rows(const PoolShape& shape, int64_t rows, int64_t lines, const Job& job) {
  const int64_t grain = std::max<int64_t>(1, grain_elements / (shape.width * shape.channels));
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> line(static_cast<size_t>(lines));
    job(begin, end, line.data());
  });
}

std::tuple<Tensor, Tensor, Tensor> pool_pair(Tensor input, int64_t stride) {
  const PoolShape shape = pool_shape(input, stride, "pool_pair");
  const Storage storage = float_storage(input, "pool_pair");
  const Tensor x = channels_last(input, "pool_pair");
  const int64_t batch = x.size(0), channels = shape.channels;
  Tensor max_map = empty_pool(x, shape), avg_map = empty_pool(x, shape), statistics = empty({2, 2, channels}, ScalarType::Float);

  const int64_t rows = batch * shape.output_height, segments = rows == 0 ? 0 : segments_of(max_map.numel(), rows);
  std::vector<double> moments(static_cast<size_t>(segments * 6 * channels));
  const auto kernel = PARTNAS_KERNEL(pool_pair);
  const int64_t lines = PARTNAS_KERNEL(pool_pair_lines)(shape);
  if (segments > 0)
    parallel_for(0, segments, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> line(static_cast<size_t>(lines));
      std::vector<double> scratch(static_cast<size_t>(2 * moments_scratch * shape.statistics_rows.room));
      for (int64_t s = begin; s < end; ++s)
        kernel(storage, shape, x.data_ptr(), rows * s / segments, rows * (s + 1) / segments, line.data(), scratch.data(),
               moments.data() + s * 6 * channels, max_map.data_ptr(), avg_map.data_ptr());
    });
  float* result = static_cast<float*>(statistics.data_ptr());
  for (int64_t map = 0; map < 2; ++map)
    finish_statistics(moments.data() + map * 3 * channels, segments, 6 * channels, channels,
                      result + map * 2 * channels);
  return {max_map, avg_map, statistics};
}

Tensor pool(Tensor input, bool takes_max, int64_t stride) {
  const PoolShape shape = pool_shape(input, stride, "pool");
  const Storage storage = float_storage(input, "pool");
  const Tensor x = channels_last(input, "pool");
  Tensor map = empty_pool(x, shape);
  if (map.numel() == 0) return map;
  const auto kernel = PARTNAS_KERNEL(pool);
  for_rows(shape, x.size(0) * shape.output_height, PARTNAS_KERNEL(pool_pair_lines)(shape),
           [&](int64_t begin, int64_t end, float* lines) {
             kernel(storage, shape, takes_max, x.data_ptr(), begin, end, lines, map.data_ptr());
           });
  return map;
}

// One of the gradients may be missing.
Tensor backward(const char* name, const Tensor* max_gradient, const Tensor* avg_gradient, const Tensor& input,
                int64_t stride) {
  const PoolShape shape = pool_shape(input, stride, name);
  const Storage storage = float_storage(input, name);
  const auto checked = [&](const Tensor* g) {
    if (!g) return std::optional<Tensor>();
    check_pool_gradient(*g, input, shape.output_height, shape.output_width, name);
    return std::optional(channels_last(*g, name));
  };
  const std::optional<Tensor> of_max = checked(max_gradient), of_avg = checked(avg_gradient);
  const Tensor x = max_gradient ? channels_last(input, name) : input;
  Tensor gradient = empty_like_map(x);
  if (gradient.numel() == 0) return gradient;
  const auto kernel = PARTNAS_KERNEL(pool_pair_backward);
  for_rows(shape, x.size(0) * shape.height, PARTNAS_KERNEL(pool_pair_backward_lines)(shape),
           [&](int64_t begin, int64_t end, float* lines) {
             kernel(storage, shape, x.data_ptr(), of_max ? of_max->data_ptr() : nullptr,
                    of_avg ? of_avg->data_ptr() : nullptr, begin, end, lines, gradient.data_ptr());
           });
  return gradient;
}

Tensor pool_pair_backward(Tensor max_gradient, Tensor avg_gradient, Tensor input, int64_t stride) {
  return backward("pool_pair_backward", &max_gradient, &avg_gradient, input, stride);
}

Tensor pool_backward(Tensor gradient, Tensor input, bool takes_max, int64_t stride) {
  return backward("pool_backward", takes_max ? &gradient : nullptr, takes_max ? nullptr : &gradient, input, stride);
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) {
  m.impl("pool_pair", TORCH_BOX(&partnas::pool_pair));
  m.impl("pool_pair_backward", TORCH_BOX(&partnas::pool_pair_backward));
  m.impl("pool", TORCH_BOX(&partnas::pool));
  m.impl("pool_backward", TORCH_BOX(&partnas::pool_backward));
}
