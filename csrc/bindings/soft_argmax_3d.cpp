// soft_argmax_3d on the CPU: layouts, allocation and threads around the kernels of csrc/cpu/soft_argmax_3d.cpp.
#include "cpu/soft_argmax_3d.h"

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "common/soft_argmax_3d.h"

namespace partnas {
namespace {

using torch::stable::parallel_for;

// Segments that one part's volume is cut into; fixed by the shape, so that the sums do not depend on the threads.
constexpr int64_t max_segments = 8;
constexpr int64_t segment_elements = 32768;

using Layout = VolumeLayout;

struct Walk {
  Layout layout;
  Grid grid;
  int64_t batch_stride;
};

Walk walk(const Tensor& v, Layout layout) {
  Grid grid;
  if (layout == Layout::planes) {
    grid = {v.size(2), v.size(3), v.size(4), v.stride(1), v.stride(2), v.stride(3)};
  } else {
    grid = {v.size(3), v.size(4), v.size(2), v.stride(1), v.stride(3), v.stride(4)};
  }
  return {layout, grid, v.stride(0)};
}

// The tensor in a layout that the kernels walk; a copy when its strides are neither.
Tensor walkable(const Tensor& v, Layout& layout) {
  const auto found = layout_of(v);
  layout = found.value_or(Layout::planes);
  return found ? v : contiguous_copy(v);
}

// Runs job(sample, first part, parts, begin, end, segment) over everything: for planes one part at a time, for
// channels-last all parts of a few rows at a time, so that memory is read in the order in which it lies.
template <typename Job>
void for_each_piece(const Walk& w, int64_t batch, int64_t parts, int64_t segments, const Job& job) {
  const int64_t groups = w.layout == Layout::planes ? parts : 1;
  const int64_t parts_per_group = w.layout == Layout::planes ? 1 : parts;
  const int64_t elements =
      parts_per_group * w.grid.outer * w.grid.middle * w.grid.inner / std::max<int64_t>(segments, 1);
  const int64_t grain = std::max<int64_t>(1, segment_elements / std::max<int64_t>(elements, 1));
  parallel_for(0, batch * groups * segments, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t segment = task % segments, group = task / segments % groups, sample = task / segments / groups;
      job(sample, group * parts_per_group, parts_per_group, w.grid.outer * segment / segments,
          w.grid.outer * (segment + 1) / segments, segment);
    }
  });
}

int64_t segments_of(const Walk& w, int64_t parts) {
  const int64_t elements =
      w.grid.outer * w.grid.middle * w.grid.inner * (w.layout == Layout::channels_last ? parts : 1);
  return std::clamp<int64_t>(elements / segment_elements, 1, std::min(max_segments, w.grid.outer));
}

// Adds the segments of one part in double and writes (reference, sum, x, y, z), with the reference moved so that the
// sum is 1 but for the rounding of the reference: e^(v - reference) then never overflows in backward.
template <typename T>
void finish(const Partial* segments, int64_t count, Layout layout, T* xyz, T* statistics) {
  double reference = segments[0].reference;
  for (int64_t s = 1; s < count; ++s) reference = std::max(reference, segments[s].reference);
  double sum = 0, inner = 0, middle = 0, outer = 0;
  for (int64_t s = 0; s < count; ++s) {
    const double factor = segments[s].sum == 0 ? 0 : std::exp(segments[s].reference - reference);
    sum += factor * segments[s].sum;
    inner += factor * segments[s].inner;
    middle += factor * segments[s].middle;
    outer += factor * segments[s].outer;
  }
  inner /= sum, middle /= sum, outer /= sum;
  const double x = layout == Layout::planes ? inner : middle;
  const double y = layout == Layout::planes ? middle : outer;
  const double z = layout == Layout::planes ? outer : inner;
  const T moved = static_cast<T>(reference + std::log(sum));
  statistics[0] = moved;
  statistics[1] = static_cast<T>(sum * std::exp(reference - static_cast<double>(moved)));
  xyz[0] = statistics[2] = static_cast<T>(x);
  xyz[1] = statistics[3] = static_cast<T>(y);
  xyz[2] = statistics[4] = static_cast<T>(z);
}

std::tuple<Tensor, Tensor> soft_argmax_3d(Tensor input, std::vector<int64_t> order) {
  check_volume(input, order);
  const Storage storage = storage_of(input, "soft_argmax_3d");
  const ScalarType type = storage == Storage::float64 ? ScalarType::Double : ScalarType::Float;
  Layout layout;
  const Tensor volume = walkable(input, layout);
  const Walk w = walk(volume, layout);
  const int64_t batch = volume.size(0), parts = static_cast<int64_t>(order.size());
  Tensor xyz = empty({batch, parts, 3}, type), statistics = empty({batch, parts, 5}, type);
  if (batch * parts == 0) return {xyz, statistics};

  const int64_t segments = segments_of(w, parts);
  std::vector<Partial> partials(static_cast<size_t>(batch * parts * segments));
  const char* data = static_cast<const char*>(volume.data_ptr());
  const int64_t sample_bytes = w.batch_stride * static_cast<int64_t>(volume.element_size());
  const auto kernel = PARTNAS_KERNEL(soft_argmax_3d);
  for_each_piece(w, batch, parts, segments,
                 [&](int64_t sample, int64_t first, int64_t count, int64_t begin, int64_t end, int64_t segment) {
                   kernel(storage, w.grid, data + sample * sample_bytes, order.data() + first, count, begin, end,
                          partials.data() + (sample * parts + first) * segments + segment, segments);
                 });

  const auto finish_all = [&](auto* coordinates, auto* numbers) {
    for (int64_t i = 0; i < batch * parts; ++i)
      finish(partials.data() + i * segments, segments, layout, coordinates + 3 * i, numbers + 5 * i);
  };
  if (type == ScalarType::Double) {
    finish_all(static_cast<double*>(xyz.data_ptr()), static_cast<double*>(statistics.data_ptr()));
  } else {
    finish_all(static_cast<float*>(xyz.data_ptr()), static_cast<float*>(statistics.data_ptr()));
  }
  return {xyz, statistics};
}

// [B, P_out, 3] or [B, P_out, 5] of float32 or float64, any strides, as doubles in order.
std::vector<double> numbers(const Tensor& t) {
  std::vector<double> result;
  result.reserve(static_cast<size_t>(t.numel()));
  const auto read = [&](const auto* data) {
    for (int64_t i = 0; i < t.size(0); ++i)
      for (int64_t j = 0; j < t.size(1); ++j)
        for (int64_t k = 0; k < t.size(2); ++k)
          result.push_back(static_cast<double>(data[i * t.stride(0) + j * t.stride(1) + k * t.stride(2)]));
  };
  if (t.scalar_type() == ScalarType::Double) {
    read(static_cast<const double*>(t.data_ptr()));
  } else {
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float,
                    "soft_argmax_3d_backward: gradient and statistics must be float32, or float64 for float64 volumes");
    read(static_cast<const float*>(t.data_ptr()));
  }
  return result;
}

PartGradient part_gradient(const double* g, const double* statistics, Layout layout) {
  const double weight = 1 / statistics[1];
  const double gx = g[0] * weight, gy = g[1] * weight, gz = g[2] * weight;
  const double x = statistics[2], y = statistics[3], z = statistics[4];
  if (layout == Layout::planes) return {statistics[0], gx, gy, gz, x, y, z, true};
  return {statistics[0], gz, gx, gy, z, x, y, true};
}

Tensor soft_argmax_3d_backward(Tensor gradient, Tensor input, Tensor statistics, std::vector<int64_t> order) {
  check_volume(input, order);
  const Storage storage = storage_of(input, "soft_argmax_3d_backward");
  Layout layout;
  const Tensor volume = walkable(input, layout);
  const Walk w = walk(volume, layout);
  const int64_t batch = volume.size(0), parts = volume.size(1), read = static_cast<int64_t>(order.size());
  check_backward(gradient, volume, statistics, read);

  const std::vector<int64_t> sizes(volume.sizes().begin(), volume.sizes().end());
  Tensor output = empty_strided(sizes, volume_strides(sizes, layout), volume.scalar_type());
  if (output.numel() == 0) return output;
  advise_huge_pages(output);

  std::vector<PartGradient> gradients(static_cast<size_t>(batch * parts), PartGradient{});
  const std::vector<double> g = numbers(gradient), s = numbers(statistics);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t p = 0; p < read; ++p) {
      const int64_t i = b * read + p;
      gradients[static_cast<size_t>(b * parts + order[p])] =
          part_gradient(g.data() + 3 * i, s.data() + 5 * i, layout);
    }

  const Walk to = walk(output, layout);
  const auto element = static_cast<int64_t>(volume.element_size());
  const char* data = static_cast<const char*>(volume.data_ptr());
  char* result = static_cast<char*>(output.data_ptr());
  const bool streams = worth_streaming({output});
  const auto kernel = PARTNAS_KERNEL(soft_argmax_3d_backward);
  for_each_piece(
      w, batch, parts, segments_of(w, parts),
      [&](int64_t sample, int64_t first, int64_t count, int64_t begin, int64_t end, int64_t) {
        kernel(storage, w.grid, data + (sample * w.batch_stride + first * w.grid.part_stride) * element,
               gradients.data() + sample * parts + first, count, begin, end, to.grid,
               result + (sample * to.batch_stride + first * to.grid.part_stride) * element, streams);
      });
  return output;
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) {
  m.impl("soft_argmax_3d", TORCH_BOX(&partnas::soft_argmax_3d));
  m.impl("soft_argmax_3d_backward", TORCH_BOX(&partnas::soft_argmax_3d_backward));
}
