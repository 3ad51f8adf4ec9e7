// pointwise on the CPU: layouts, allocation and threads around the kernels of csrc/cpu/pointwise.cpp.
#include "bindings/pointwise.h"

#include <optional>

#include "common/channels_last.h"

namespace partnas {
namespace {

using torch::stable::parallel_for;

// Tasks to share out, and pixels that are worth sums of their own: fewer of them where there would be hardly a task for
// each thread. Sums are cut by the shapes alone, so that they do not depend on the threads.
constexpr int64_t enough_tasks = 32, few_tasks = 4;
constexpr int64_t enough_summed = 1024, least_summed = 128;
// Fewer pixels than this read a matrix too often: their results are cut by columns instead.
constexpr int64_t least_pixels = 48;
// What stands before packed matrices, which tells for which vectors they are.
constexpr int64_t head = 16;

// Maps of one shape and dtype, channels-last. A map that comes again is not copied again.
class Maps {
 public:
  Maps(const std::vector<Tensor>& maps, const char* name) {
    const Tensor& first = maps[0];
    STD_TORCH_CHECK(first.dim() == 4, name, ": maps must be (B, C, H, W), got ", first.dim(), " dimensions");
    storage = storage_of(first, name);
    STD_TORCH_CHECK(storage != Storage::float64, name, ": float64 maps are left to the reference");
    batch = first.size(0), channels = first.size(1), height = first.size(2), width = first.size(3);
    for (size_t f = 0; f < maps.size(); ++f) {
      STD_TORCH_CHECK(maps[f].dim() == 4 && maps[f].scalar_type() == first.scalar_type(), name,
                      ": all maps must be (B, C, H, W) of one dtype");
      for (int64_t d = 0; d < 4; ++d)
        STD_TORCH_CHECK(maps[f].size(d) == first.size(d), name, ": all maps must have one shape");
      kept_.push_back(f > 0 && same(maps[f], maps[f - 1]) ? kept_.back() : channels_last(maps[f], name));
    }
  }

  int64_t pixels() const { return batch * height * width; }
  const void* operator[](int64_t f) const { return kept_[static_cast<size_t>(f)].data_ptr(); }
  // A new map beside these.
  Tensor empty(int64_t of_channels, int64_t of_height, int64_t of_width) const {
    return empty_map(batch, of_channels, of_height, of_width, kept_[0].scalar_type());
  }

  Storage storage;
  int64_t batch, channels, height, width;

 private:
  static bool same(const Tensor& a, const Tensor& b) {
    if (a.data_ptr() != b.data_ptr()) return false;
    for (int64_t d = 0; d < 4; ++d)
      if (a.stride(d) != b.stride(d)) return false;
    return true;
  }

  std::vector<Tensor> kept_;
};

// How the results of `count` maps are cut: their pixels into `pieces`, and the columns of each piece into `columns`.
struct Cut {
  int64_t count, pixels, pieces, columns, grain;

  Cut(int64_t count, int64_t pixels, const PointwiseShape& shape, bool summed, int64_t most_columns)
      : count(count), pixels(pixels) {
    const int64_t products = std::max<int64_t>(1, pixels * shape.in * shape.out);
    const int64_t worth =
        summed ? std::max(pixels / enough_summed, std::min(few_tasks / count, pixels / least_summed)) : pixels;
    const int64_t wanted = products / pointwise_grain, enough = enough_tasks / count;
    pieces = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, std::min(enough, worth)));
    columns = 1;
    if (most_columns > 1 && pixels / pieces < least_pixels) {
      const int64_t tasks = pieces;
      pieces = std::max<int64_t>(1, pixels / least_pixels);
      columns = std::clamp<int64_t>(tasks / pieces, 1, most_columns);
    }
    grain = std::max<int64_t>(1, pointwise_grain * pieces * columns / products);
  }

  // job(f, number of the piece, part, scratch) for every part of every map.
  template <typename Job>
  void run(int64_t scratch_elements, const Job& job) const {
    parallel_for(0, count * pieces * columns, grain, [&](int64_t first, int64_t last) {
      std::vector<float> scratch(static_cast<size_t>(scratch_elements));
      for (int64_t task = first; task < last; ++task) {
        const int64_t at = task / columns, piece = at % pieces;
        job(at / pieces, at,
            PointwisePart{pixels * piece / pieces, pixels * (piece + 1) / pieces, task % columns, columns},
            scratch.data());
      }
    });
  }
};

Tensor pack_pointwise(Tensor weight) {
  weight = checked_weight(weight, "pack_pointwise");
  const int64_t out = weight.size(1);
  const PointwiseShape shape{Storage::float32, weight.size(2), 1, out, out, false, false, nullptr};
  const PointwiseKernels kernels = pointwise_kernels_for(out);
  const Tensor result = packed_matrices(kernels, shape, weight, shape.in, 1, head);
  auto* first = static_cast<float*>(result.data_ptr());
  std::fill_n(first, head, static_cast<float>(kernels.lanes()));
  return result;
}

// Whether that is what `pack_pointwise` makes of `count` matrices for these kernels.
bool is_packed(const Tensor& packed, const PointwiseKernels& kernels, const PointwiseShape& shape, int64_t count) {
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Float && packed.dim() == 1 && packed.is_contiguous() &&
                      packed.numel() >= head,
                  "pointwise: packed must be what pack_pointwise gives");
  return packed.numel() == head + count * shape.in * kernels.room(shape.out) &&
         *static_cast<const float*>(packed.data_ptr()) == static_cast<float>(kernels.lanes());
}

// The biases [F, C_out] of all maps, `room` floats apart.
std::vector<float> padded(const Tensor& bias, int64_t room) {
  const int64_t channels = bias.size(1);
  std::vector<float> result(static_cast<size_t>(bias.size(0) * room), 0.0f);
  const auto* from = static_cast<const float*>(bias.data_ptr());
  for (int64_t f = 0; f < bias.size(0); ++f) std::copy_n(from + f * channels, channels, result.data() + f * room);
  return result;
}

// With `reduces`, two matrices read the even and the odd pixels, and their results are one map.
std::vector<Tensor> pointwise(std::vector<Tensor> inputs, Tensor weight, bool relu, std::optional<Tensor> bias,
                              std::vector<Tensor> add, bool reduces, std::optional<Tensor> ready) {
  STD_TORCH_CHECK(weight.dim() == 3, "pointwise: weight must be (F, C_out, C_in)");
  const int64_t count = weight.size(0), joined = reduces ? count : 1, results = count / joined;
  STD_TORCH_CHECK(!reduces || count == 2, "pointwise: a reduction takes two matrices");
  const auto given = static_cast<int64_t>(inputs.size());
  STD_TORCH_CHECK(given == results || (given > 0 && count > 0 && given % results == 0), "pointwise: ", given,
                  " maps do not divide among ", results, reduces ? " result" : " matrices");
  std::vector<Tensor> outputs;
  if (inputs.empty()) return outputs;
  const Maps maps(inputs, "pointwise");
  const int64_t parts = given / results, out = weight.size(1);
  STD_TORCH_CHECK(weight.size(2) == parts * maps.channels, "pointwise: weight must be (F, C_out, ",
                  parts * maps.channels, ")");
  std::vector<const void*> from;
  for (int64_t i = 0; i < given; ++i) from.push_back(maps[i]);
  const int64_t height = (maps.height + joined - 1) / joined, width = (maps.width + joined - 1) / joined;
  for (int64_t r = 0; r < results; ++r) outputs.push_back(maps.empty(joined * out, height, width));
  const PointwiseKernels kernels = pointwise_kernels_for(out);
  std::vector<float> biases;
  if (bias) {
    STD_TORCH_CHECK(bias->scalar_type() == ScalarType::Float && bias->dim() == 2 && bias->size(0) == count &&
                        bias->size(1) == out && bias->is_contiguous(),
                    "pointwise: bias must be (F, C_out), contiguous float32");
    biases = padded(*bias, kernels.room(out));
  }
  STD_TORCH_CHECK(add.empty() || static_cast<int64_t>(add.size()) == results,
                  "pointwise: give a map to add for each result, or none");
  std::optional<Maps> added;
  if (!add.empty()) {
    const Maps& others = added.emplace(add, "pointwise");
    STD_TORCH_CHECK(others.storage == maps.storage && others.batch == maps.batch && others.channels == joined * out &&
                        others.height == height && others.width == width,
                    "pointwise: a map to add is not like the result");
  }
  if (outputs[0].numel() == 0) return outputs;

  const EverySecond halves[]{{maps.height, maps.width, 0}, {maps.height, maps.width, 1}};
  const auto shape_of = [&](int64_t f) {
    const EverySecond* second = reduces ? &halves[f] : nullptr;
    return PointwiseShape{maps.storage, weight.size(2), parts, out, joined * out, relu, false, second};
  };
  const PointwiseShape shape = shape_of(0);
  const bool is_ready = ready && is_packed(*ready, kernels, shape, count);
  const Tensor matrices =
      is_ready ? *ready : packed_matrices(kernels, shape, checked_weight(weight, "pointwise"), shape.in, 1);
  const auto* first_matrix = static_cast<const float*>(matrices.data_ptr()) + (is_ready ? head : 0);
  const int64_t room = shape.in * kernels.room(out), element = static_cast<int64_t>(outputs[0].element_size());
  const bool streams = worth_streaming(outputs);
  const Cut cut(count, maps.batch * height * width, shape, false, kernels.columns(shape));
  cut.run(kernels.scratch(shape), [&](int64_t f, int64_t, const PointwisePart& part, float* scratch) {
    const int64_t result = f / joined, offset = f % joined * out * element;
    const float* start = bias ? biases.data() + f * kernels.room(out) : nullptr;
    auto* to = static_cast<char*>(outputs[static_cast<size_t>(result)].data_ptr()) + offset;
    const char* others = added ? static_cast<const char*>((*added)[result]) + offset : nullptr;
    const PointwiseMaps of{from.data() + result * parts, nullptr, to, nullptr, start, others, streams};
    kernels.run(shape_of(f), of, first_matrix + f * room, part, scratch);
  });
  return outputs;
}

std::vector<Tensor> pointwise_backward(std::vector<Tensor> gradients, std::vector<Tensor> inputs, Tensor weight,
                                       bool relu, std::vector<int64_t> needs) {
  const char* name = "pointwise_backward";
  weight = checked_weight(weight, name);
  STD_TORCH_CHECK(weight.size(0) == static_cast<int64_t>(gradients.size()), name, ": give a matrix for each gradient");
  STD_TORCH_CHECK(needs.size() == gradients.size() + 1, name, ": give needs for each map and the weight");
  const bool needs_weight = needs.back();
  const bool needs_maps = needs_weight || relu;
  STD_TORCH_CHECK(!needs_maps || inputs.size() == gradients.size(), name,
                  ": ReLU and the gradient of the weight need a map for each gradient");
  std::vector<Tensor> found;
  Tensor weight_gradient;
  if (needs_weight) weight_gradient = empty({weight.size(0), weight.size(1), weight.size(2)}, ScalarType::Float);
  if (gradients.empty()) return needs_weight ? std::vector<Tensor>{weight_gradient} : found;

  const Maps upstream(gradients, name);
  STD_TORCH_CHECK(weight.size(1) == upstream.channels, name, ": weight must be (F, ", upstream.channels, ", C_in)");
  const PointwiseShape shape{upstream.storage, upstream.channels, 1, weight.size(2), weight.size(2), false, relu,
                             nullptr};
  std::vector<void*> to;
  for (size_t f = 0; f < gradients.size(); ++f) {
    if (needs[f]) found.push_back(upstream.empty(shape.out, upstream.height, upstream.width));
    to.push_back(needs[f] ? found.back().data_ptr() : nullptr);
  }
  std::vector<const void*> with(gradients.size(), nullptr);
  std::optional<Maps> maps;
  if (needs_maps) {
    const Maps& x = maps.emplace(inputs, name);
    STD_TORCH_CHECK(x.storage == upstream.storage && x.batch == upstream.batch && x.channels == shape.out &&
                        x.height == upstream.height && x.width == upstream.width,
                    name, ": a gradient is not like its map");
    for (size_t f = 0; f < with.size(); ++f) with[f] = x[static_cast<int64_t>(f)];
  }

  const int64_t count = weight.size(0), pixels = upstream.pixels();
  if (count * pixels * shape.in * shape.out == 0) {
    for (const Tensor& t : found) zero(t);
    if (needs_weight) zero(weight_gradient);
  } else {
    const PointwiseKernels kernels = pointwise_kernels_for(shape.out);
    const int64_t room = kernels.room(shape.out), stride = shape.in * room;
    const Cut cut(count, pixels, shape, needs_weight, needs_weight || relu ? 1 : kernels.columns(shape));
    const bool streams = worth_streaming(found);
    std::optional<Tensor> matrices, kept;
    if (!found.empty()) matrices = packed_matrices(kernels, shape, weight, 1, shape.out);
    if (needs_weight) kept = empty({count * cut.pieces, stride}, ScalarType::Float);
    const auto* first_matrix = matrices ? static_cast<const float*>(matrices->data_ptr()) : nullptr;
    float* all_sums = kept ? static_cast<float*>(kept->data_ptr()) : nullptr;
    cut.run(kernels.scratch(shape), [&](int64_t f, int64_t piece, const PointwisePart& part, float* scratch) {
      const auto at = static_cast<size_t>(f);
      const void* from = upstream[f];
      float* sums = all_sums ? all_sums + piece * stride : nullptr;
      if (sums) std::fill_n(sums, stride, 0.0f);
      const PointwiseMaps of{&from, with[at], to[at], sums, nullptr, nullptr, streams};
      kernels.run(shape, of, first_matrix ? first_matrix + f * stride : nullptr, part, scratch);
    });
    if (all_sums) add_pieces(all_sums, count, cut.pieces, shape, room, static_cast<float*>(weight_gradient.data_ptr()));
  }
  if (needs_weight) found.push_back(weight_gradient);
  return found;
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) {
  m.impl("pack_pointwise", TORCH_BOX(&partnas::pack_pointwise));
  m.impl("pointwise", TORCH_BOX(&partnas::pointwise));
  m.impl("pointwise_backward", TORCH_BOX(&partnas::pointwise_backward));
}
