// upsample on the CPU: layouts, allocation and threads around csrc/cpu/upsample.cpp.
#include "cpu/upsample.h"

#include <vector>

#include "common/channels_last.h"

namespace partnas {
namespace {

using torch::stable::parallel_for;

constexpr int64_t grain_elements = 1 << 14;

// Runs job(storage, begin, end, line) over all rows of `to`, each thread with a line of its own.
template <typename Job>
void over_rows(const Job& job, const Tensor& from, const Tensor& to, int64_t line_elements) {
  if (to.numel() == 0) return;
  const Storage storage = storage_of(from, "upsample");
  STD_TORCH_CHECK(storage != Storage::float64, "upsample: float64 maps are left to the reference");
  const int64_t rows = to.size(0) * to.size(2);
  parallel_for(0, rows, std::max<int64_t>(1, grain_elements * rows / to.numel()), [&](int64_t begin, int64_t end) {
    std::vector<float> line(static_cast<size_t>(line_elements));
    job(storage, begin, end, line.data());
  });
}

Tensor upsample(Tensor input, int64_t factor) {
  STD_TORCH_CHECK(factor == 2 || factor == 4, "upsample: factor ", factor, " is neither 2 nor 4");
  const Tensor x = channels_last(input, "upsample");
  const UpsampleShape shape{x.size(1), x.size(2), x.size(3), factor};
  Tensor output = empty_map(x.size(0), shape.channels, factor * shape.height, factor * shape.width, x.scalar_type());
  const bool streams = worth_streaming({output});
  const auto kernel = PARTNAS_KERNEL(upsample);
  over_rows(
      [&](Storage storage, int64_t begin, int64_t end, float* line) {
        kernel(storage, shape, x.data_ptr(), begin, end, streams, line, output.data_ptr());
      },
      x, output, shape.width * shape.channels);
  return output;
}

Tensor upsample_backward(Tensor input, int64_t factor) {
  STD_TORCH_CHECK(factor == 2 || factor == 4, "upsample_backward: factor ", factor, " is neither 2 nor 4");
  const Tensor g = channels_last(input, "upsample_backward");
  STD_TORCH_CHECK(g.size(2) % factor == 0 && g.size(3) % factor == 0,
                  "upsample_backward: the sides of the gradient must be multiples of ", factor);
  const UpsampleShape shape{g.size(1), g.size(2) / factor, g.size(3) / factor, factor};
  Tensor gradient = empty_map(g.size(0), shape.channels, shape.height, shape.width, g.scalar_type());
  const auto kernel = PARTNAS_KERNEL(upsample_backward);
  over_rows(
      [&](Storage storage, int64_t begin, int64_t end, float* line) {
        kernel(storage, shape, g.data_ptr(), begin, end, line, gradient.data_ptr());
      },
      g, gradient, factor * shape.width * shape.channels);
  return gradient;
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) {
  m.impl("upsample", TORCH_BOX(&partnas::upsample));
  m.impl("upsample_backward", TORCH_BOX(&partnas::upsample_backward));
}
