// norm_stats, norm_sum and its backward on the CPU: layouts, allocation and threads around csrc/cpu/norm_sum.cpp.
//
// The backward is two operators, so that several processes can add up the sums of the first before the second.
#include "cpu/norm_sum.h"

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "common/channels_last.h"
#include "common/moments.h"
#include "common/norm_sum.h"

namespace partnas {
namespace {

using torch::stable::parallel_for;

constexpr int64_t grain_elements = 1 << 15;

// The numbers of a float32 or float64 tensor of any strides, in order.
std::vector<double> numbers(const Tensor& t, const char* name) {
  const Tensor whole = t.is_contiguous() ? t : contiguous_copy(t);
  std::vector<double> result(static_cast<size_t>(whole.numel()));
  const auto read = [&](const auto* data) { std::copy(data, data + result.size(), result.begin()); };
  if (whole.scalar_type() == ScalarType::Double) {
    read(static_cast<const double*>(whole.data_ptr()));
  } else {
    STD_TORCH_CHECK(whole.scalar_type() == ScalarType::Float, name, ": statistics and weights must be float32 or float64");
    read(static_cast<const float*>(whole.data_ptr()));
  }
  return result;
}

// Maps of one shape and dtype, channels-last.
class Maps {
 public:
  Maps(const Tensor& first, const char* name) : name_(name), shape_(row_shape(first.size(1))), first_(first) {
    storage = storage_of(first, name);
    STD_TORCH_CHECK(storage != Storage::float64, name, ": float64 maps are left to the reference");
  }

  const Tensor& add(const Tensor& x) {
    check_map(x, first_, name_);
    kept_.push_back(channels_last(x, name_));
    return kept_.back();
  }

  const RowShape& shape() const { return shape_; }
  int64_t elements() const { return first_.numel(); }
  int64_t rows() const { return (elements() + shape_.length - 1) / shape_.length; }

  // job(begin, end), in elements, over everything.
  template <typename Job>
  void split(const Job& job) const {
    parallel_for(0, rows(), std::max<int64_t>(1, grain_elements / shape_.length), [&](int64_t begin, int64_t end) {
      job(begin * shape_.length, std::min(end * shape_.length, elements()));
    });
  }

  // job(segment, begin, end), in elements, over segments fixed by the shape.
  template <typename Job>
  void split(int64_t segments, const Job& job) const {
    parallel_for(0, segments, 1, [&](int64_t first, int64_t last) {
      for (int64_t s = first; s < last; ++s)
        job(s, rows() * s / segments * shape_.length, std::min(rows() * (s + 1) / segments * shape_.length, elements()));
    });
  }

  Storage storage;

 private:
  const char* name_;
  RowShape shape_;
  Tensor first_;
  std::vector<Tensor> kept_;
};

Tensor norm_stats(std::vector<Tensor> maps) {
  STD_TORCH_CHECK(!maps.empty(), "norm_stats: give at least one map");
  const int64_t count = static_cast<int64_t>(maps.size()), channels = maps[0].size(1);
  Tensor statistics = empty({count, 2, channels}, ScalarType::Float);
  if (channels == 0) return statistics;

  struct Piece {
    const void* x;
    int64_t begin, end;
    Storage storage;
  };
  std::vector<Tensor> kept;
  std::vector<Piece> pieces;
  std::vector<int64_t> first_piece{0};
  const RowShape shape = row_shape(channels);
  for (const Tensor& map : maps) {
    kept.push_back(channels_last(map, "norm_stats"));
    const Tensor& x = kept.back();
    STD_TORCH_CHECK(x.size(1) == channels, "norm_stats: all maps must have the same channels");
    const Storage storage = storage_of(x, "norm_stats");
    STD_TORCH_CHECK(storage != Storage::float64, "norm_stats: float64 maps are left to the reference");
    const int64_t elements = x.numel(), rows = (elements + shape.length - 1) / shape.length;
    const int64_t segments = elements == 0 ? 0 : segments_of(elements, rows);
    for (int64_t s = 0; s < segments; ++s)
      pieces.push_back({x.data_ptr(), rows * s / segments * shape.length,
                        std::min(rows * (s + 1) / segments * shape.length, elements), storage});
    first_piece.push_back(static_cast<int64_t>(pieces.size()));
  }

  std::vector<double> moments(pieces.size() * static_cast<size_t>(3 * channels));
  const auto kernel = PARTNAS_KERNEL(norm_stats);
  const int64_t piece_elements = pieces.empty() ? 1 : std::max<int64_t>(1, pieces[0].end - pieces[0].begin);
  parallel_for(0, static_cast<int64_t>(pieces.size()), std::max<int64_t>(1, grain_elements / piece_elements),
               [&](int64_t begin, int64_t end) {
                 std::vector<double> scratch(static_cast<size_t>(moments_scratch * shape.room));
                 for (int64_t p = begin; p < end; ++p) {
                   const Piece& piece = pieces[static_cast<size_t>(p)];
                   kernel(piece.storage, shape, piece.x, piece.begin, piece.end, scratch.data(),
                          moments.data() + p * 3 * channels);
                 }
               });
  float* result = static_cast<float*>(statistics.data_ptr());
  for (int64_t k = 0; k < count; ++k) {
    const int64_t first = first_piece[static_cast<size_t>(k)], last = first_piece[static_cast<size_t>(k + 1)];
    finish_statistics(moments.data() + first * 3 * channels, last - first, 3 * channels, channels,
                      result + k * 2 * channels);
  }
  return statistics;
}

Tensor norm_sum(std::vector<Tensor> maps, Tensor statistics, Tensor weights, std::vector<Tensor> identities,
                Tensor identity_weights, std::optional<Tensor> shift, double eps) {
  const Tensor& like = check_norm_sum(maps, statistics, weights, identities, identity_weights, shift);
  const int64_t channels = like.size(1);
  Tensor output = empty_like_map(like);
  Maps inputs(like, "norm_sum");
  std::vector<Branch> branches;
  for (const auto* group : {&maps, &identities})
    for (const Tensor& x : *group) branches.push_back({inputs.add(x).data_ptr(), nullptr, nullptr, nullptr, nullptr});
  if (output.numel() == 0) return output;

  const std::vector<double> s = numbers(statistics, "norm_sum"), w = numbers(weights, "norm_sum"),
                            v = numbers(identity_weights, "norm_sum");
  std::vector<double> centers(branches.size() * static_cast<size_t>(channels)), slopes(centers.size());
  for (size_t k = 0; k < branches.size(); ++k)
    for (int64_t c = 0; c < channels; ++c) {
      const size_t i = k * static_cast<size_t>(channels) + static_cast<size_t>(c);
      const double* of_map = s.data() + 2 * channels * static_cast<int64_t>(k) + c;
      centers[i] = k < maps.size() ? of_map[0] : 0;
      slopes[i] = k < maps.size() ? w[i] / std::sqrt(of_map[channels] + eps) : v[k - maps.size()];
    }
  const RowShape& shape = inputs.shape();
  const std::vector<double> shifts =
      shift ? numbers(*shift, "norm_sum") : std::vector<double>(static_cast<size_t>(channels), 0.0);
  const std::vector<float> center = along_rows(centers, shape), slope = along_rows(slopes, shape),
                           offset = along_rows(shifts, shape);
  for (size_t k = 0; k < branches.size(); ++k) {
    branches[k].center = center.data() + static_cast<int64_t>(k) * shape.room;
    branches[k].slope = slope.data() + static_cast<int64_t>(k) * shape.room;
  }
  const auto kernel = PARTNAS_KERNEL(norm_sum);
  const int64_t scratch_elements = PARTNAS_KERNEL(norm_sum_scratch)(shape.length);
  inputs.split([&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(scratch_elements));
    kernel(inputs.storage, shape, branches.data(), static_cast<int64_t>(branches.size()), offset.data(), begin, end,
           scratch.data(), output.data_ptr());
  });
  return output;
}

std::tuple<Tensor, Tensor> norm_sum_reduce(Tensor gradient, std::vector<Tensor> maps, Tensor statistics,
                                           std::vector<Tensor> identities) {
  check_gradient(gradient, maps, statistics, "norm_sum_reduce");
  const int64_t channels = gradient.size(1), count = static_cast<int64_t>(maps.size());
  Tensor sums = empty({count + 1, channels}, ScalarType::Float);
  Tensor dots = empty({static_cast<int64_t>(identities.size())}, ScalarType::Float);
  float* sum = static_cast<float*>(sums.data_ptr());
  float* dot = static_cast<float*>(dots.data_ptr());
  if (gradient.numel() == 0) {
    std::fill(sum, sum + sums.numel(), 0.0f);
    std::fill(dot, dot + dots.numel(), 0.0f);
    return {sums, dots};
  }

  Maps inputs(gradient, "norm_sum_reduce");
  const void* g = inputs.add(gradient).data_ptr();
  std::vector<Branch> branches;
  for (const auto* group : {&maps, &identities})
    for (const Tensor& x : *group) branches.push_back({inputs.add(x).data_ptr(), nullptr, nullptr, nullptr, nullptr});
  const std::vector<double> s = numbers(statistics, "norm_sum_reduce");
  std::vector<double> centers(branches.size() * static_cast<size_t>(channels), 0.0);
  for (int64_t k = 0; k < count; ++k)
    std::copy_n(s.begin() + 2 * k * channels, channels, centers.begin() + k * channels);
  const RowShape& shape = inputs.shape();
  const std::vector<float> center = along_rows(centers, shape);
  for (size_t k = 0; k < branches.size(); ++k)
    branches[k].center = center.data() + static_cast<int64_t>(k) * shape.room;

  const int64_t segments = segments_of(inputs.elements(), inputs.rows());
  const int64_t all = static_cast<int64_t>(branches.size()), size = (all + 1) * channels;
  std::vector<double> partials(static_cast<size_t>(segments * size));
  const auto kernel = PARTNAS_KERNEL(norm_sum_reduce);
  inputs.split(segments, [&](int64_t segment, int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(shape.room));
    std::vector<double> lane_sums(static_cast<size_t>((all + 1) * shape.room));
    kernel(inputs.storage, shape, g, branches.data(), all, begin, end, scratch.data(), lane_sums.data(),
           partials.data() + segment * size);
  });
  for (int64_t segment = 1; segment < segments; ++segment)
    for (int64_t i = 0; i < size; ++i) partials[i] += partials[segment * size + i];
  for (int64_t i = 0; i < sums.numel(); ++i) sum[i] = static_cast<float>(partials[i]);
  for (int64_t l = 0; l < dots.numel(); ++l) {
    double total = 0;
    for (int64_t c = 0; c < channels; ++c) total += partials[(count + 1 + l) * channels + c];
    dot[l] = static_cast<float>(total);
  }
  return {sums, dots};
}

std::vector<Tensor> norm_sum_backward(Tensor gradient, std::vector<Tensor> maps, Tensor statistics, Tensor weights,
                                      Tensor means, Tensor identity_weights, std::vector<int64_t> wanted,
                                      std::vector<int64_t> wanted_identities, double eps) {
  check_norm_sum_backward(gradient, maps, statistics, weights, means, identity_weights, wanted, wanted_identities);
  const int64_t channels = gradient.size(1);

  std::vector<Tensor> gradients;
  for (size_t i = 0; i < wanted.size() + wanted_identities.size(); ++i) gradients.push_back(empty_like_map(gradient));
  if (gradient.numel() == 0 || gradients.empty()) return gradients;

  Maps inputs(gradient, "norm_sum_backward");
  const void* g = inputs.add(gradient).data_ptr();
  const std::vector<double> s = numbers(statistics, "norm_sum_backward"), w = numbers(weights, "norm_sum_backward"),
                            m = numbers(means, "norm_sum_backward"),
                            v = numbers(identity_weights, "norm_sum_backward");
  std::vector<Branch> branches;
  std::vector<double> centers(gradients.size() * static_cast<size_t>(channels), 0.0), slopes(centers), curves(centers);
  for (size_t i = 0; i < gradients.size(); ++i) {
    double* slope = slopes.data() + static_cast<int64_t>(i) * channels;
    Branch branch{nullptr, gradients[i].data_ptr(), nullptr, nullptr, nullptr};
    if (i < wanted.size()) {
      const int64_t k = wanted[i];
      branch.x = inputs.add(maps[static_cast<size_t>(k)]).data_ptr();
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = static_cast<int64_t>(i) * channels + c;
        const double rstd = 1 / std::sqrt(s[2 * k * channels + channels + c] + eps);
        centers[at] = s[2 * k * channels + c];
        slope[c] = w[k * channels + c] * rstd;
        curves[at] = slope[c] * rstd * rstd * m[(k + 1) * channels + c];
      }
    } else {
      std::fill(slope, slope + channels, v[wanted_identities[i - wanted.size()]]);
    }
    branches.push_back(branch);
  }
  const RowShape& shape = inputs.shape();
  const std::vector<float> mean = along_rows({m.begin(), m.begin() + channels}, shape),
                           center = along_rows(centers, shape), slope = along_rows(slopes, shape),
                           curve = along_rows(curves, shape);
  for (size_t i = 0; i < branches.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i) * shape.room;
    branches[i].center = center.data() + at;
    branches[i].slope = slope.data() + at;
    branches[i].curve = curve.data() + at;
  }
  const bool streams = worth_streaming(gradients);
  const auto kernel = PARTNAS_KERNEL(norm_sum_backward);
  const int64_t scratch_elements = PARTNAS_KERNEL(norm_sum_scratch)(shape.length);
  inputs.split([&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(scratch_elements));
    kernel(inputs.storage, shape, g, mean.data(), branches.data(), static_cast<int64_t>(branches.size()), begin, end,
           streams, scratch.data());
  });
  return gradients;
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) {
  m.impl("norm_stats", TORCH_BOX(&partnas::norm_stats));
  m.impl("norm_sum", TORCH_BOX(&partnas::norm_sum));
  m.impl("norm_sum_reduce", TORCH_BOX(&partnas::norm_sum_reduce));
  m.impl("norm_sum_backward", TORCH_BOX(&partnas::norm_sum_backward));
}
