// depthwise_pointwise on the CPU: a few rows at a time pass through all filters and from there through the matrices, so
// that what the filters give never leaves the caches. The kernels are those of depthwise_bank and of pointwise.
#include "bindings/depthwise_bank.h"
#include "bindings/pointwise.h"

namespace partnas {
namespace {

// Bytes of filtered rows that a thread has at once, rows that are worth reading those around them, tasks to share out,
// and pixels that are worth being one: the sums of each are taken apart, so that they do not depend on the threads.
constexpr int64_t most_bytes = 1 << 19;
constexpr int64_t least_rows = 4;
constexpr int64_t enough_tasks = 32;
constexpr int64_t least_pixels = 128;

// Blocks of rows of the maps of all images, `pixels` in all, and the groups of them that are tasks.
struct Blocks {
  int64_t pixels, rows, each, count, groups;

  explicit Blocks(const BankCall& call) {
    const Bank& bank = call.bank;
    const int64_t row = bank.count * bank.output_width * bank.channels * static_cast<int64_t>(call.x.element_size());
    rows = std::clamp(most_bytes / row, std::min(least_rows, bank.output_height), bank.output_height);
    each = ceil_div(bank.output_height, rows);
    count = call.batch * each;
    pixels = call.batch * bank.output_height * bank.output_width;
    groups = std::clamp<int64_t>(pixels / least_pixels, 1, std::min(count, enough_tasks));
  }
};

// Rows of all maps that lie one after the other: their pixels, and what the filters give for them. `is_first`: of its
// group.
struct Filtered {
  int64_t group;
  bool is_first;
  int64_t first_pixel, pixels;
  void* const* maps;
};

// job(filtered rows) for every block; those of a group one after the other. `out`: the channels of the results.
template <typename Job>
void for_each_block(const BankCall& call, const Blocks& blocks, int64_t out, const Job& job) {
  const Bank& bank = call.bank;
  const float* taps = call.packed_taps();
  const void* x = call.x.data_ptr();
  const int64_t vectors = call.vectors(), block = bank.taps * call.kernels.lanes();
  const int64_t map = blocks.rows * bank.output_width * bank.channels;
  const int64_t products = blocks.pixels * bank.channels * (bank.taps + bank.count * out) / blocks.groups;
  const int64_t grain = std::max<int64_t>(1, bank_grain / std::max<int64_t>(products, 1));
  torch::stable::parallel_for(0, blocks.groups, grain, [&](int64_t begin, int64_t end) {
    float* scratch = workspace<Purpose::scratch>(call.kernels.scratch(bank));
    float* memory = workspace<Purpose::maps>(bank.count * map);
    std::vector<void*> maps;
    for (int64_t f = 0; f < bank.count; ++f) maps.push_back(memory + f * map);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = blocks.count * group / blocks.groups, last = blocks.count * (group + 1) / blocks.groups;
      for (int64_t b = first; b < last; ++b) {
        Piece piece{b / blocks.each, b % blocks.each * blocks.rows, 0, 0};
        piece.end = std::min(piece.begin + blocks.rows, bank.output_height);
        piece.origin = piece.image * bank.output_height + piece.begin;
        for (; piece.vector < vectors; ++piece.vector)
          call.kernels.forward(bank, x, taps + piece.vector * block, piece, maps.data(), scratch);
        const int64_t pixels = (piece.end - piece.begin) * bank.output_width;
        job(Filtered{group, b == first, piece.origin * bank.output_width, pixels, maps.data()});
      }
    }
  });
}

Tensor weight_of(const BankCall& call, const Tensor& weight, const char* name) {
  STD_TORCH_CHECK(weight.dim() == 3 && weight.size(0) == call.bank.count && weight.size(2) == call.bank.channels, name,
                  ": weight must be (", call.bank.count, ", C_out, ", call.bank.channels, ")");
  return checked_weight(weight, name);
}

// What lies `pixels` pixels of `channels` channels after the first of a map.
template <typename Pointer>
auto* at(Pointer* map, int64_t pixels, int64_t channels, const Tensor& like) {
  using Byte = std::conditional_t<std::is_const_v<Pointer>, const char, char>;
  return static_cast<Byte*>(map) + pixels * channels * static_cast<int64_t>(like.element_size());
}

std::vector<Tensor> depthwise_pointwise(Tensor input, std::vector<Tensor> filters, Tensor weight,
                                        std::vector<int64_t> dilations, int64_t stride,
                                        std::optional<Tensor> statistics, double eps) {
  const char* name = "depthwise_pointwise";
  const BankCall call(name, input, filters, dilations, stride, statistics, std::nullopt, std::nullopt, eps, true);
  const Bank& bank = call.bank;
  weight = weight_of(call, weight, name);
  const int64_t out = weight.size(1);
  std::vector<Tensor> maps;
  std::vector<void*> to;
  for (int64_t f = 0; f < bank.count; ++f) {
    maps.push_back(call.empty(out));
    to.push_back(maps.back().data_ptr());
  }
  if (maps.empty() || maps[0].numel() == 0 || call.x.numel() == 0) {
    for (const Tensor& map : maps) zero(map);
    return maps;
  }
  const PointwiseShape shape{bank.storage, bank.channels, 1, out, out, false, false, nullptr};
  const PointwiseKernels kernels = pointwise_kernels_for(out);
  const Tensor matrices = packed_matrices(kernels, shape, weight, shape.in, 1);
  const auto* packed = static_cast<const float*>(matrices.data_ptr());
  const int64_t matrix = shape.in * kernels.room(out);
  const bool streams = worth_streaming(maps);
  for_each_block(call, Blocks(call), out, [&](const Filtered& rows) {
    float* scratch = workspace<Purpose::products>(kernels.scratch(shape));
    for (int64_t f = 0; f < bank.count; ++f) {
      const void* from = rows.maps[f];
      void* y = at(to[static_cast<size_t>(f)], rows.first_pixel, out, input);
      const PointwiseMaps of{&from, nullptr, y, nullptr, nullptr, nullptr, streams};
      kernels.run(shape, of, packed + f * matrix, PointwisePart{0, rows.pixels, 0, 1}, scratch);
    }
  });
  return maps;
}

std::vector<Tensor> depthwise_pointwise_backward(std::vector<Tensor> gradients, Tensor input,
                                                 std::vector<Tensor> filters, Tensor weight,
                                                 std::vector<int64_t> dilations, int64_t stride,
                                                 std::optional<Tensor> statistics, double eps,
                                                 std::vector<int64_t> needs) {
  const char* name = "depthwise_pointwise_backward";
  const BankCall call(name, input, filters, dilations, stride, statistics, std::nullopt, std::nullopt, eps, true);
  const Bank& bank = call.bank;
  const auto count = static_cast<size_t>(bank.count);
  weight = weight_of(call, weight, name);
  STD_TORCH_CHECK(gradients.size() == count && needs.size() == count, name,
                  ": give a gradient and needs for each filter");
  const int64_t in = weight.size(1), out = bank.channels;
  std::vector<const void*> from;
  std::vector<Tensor> found;
  std::vector<void*> to;
  for (size_t f = 0; f < count; ++f) {
    Tensor& gradient = gradients[f];
    STD_TORCH_CHECK(gradient.dim() == 4 && gradient.scalar_type() == input.scalar_type() &&
                        gradient.size(0) == call.batch && gradient.size(1) == in &&
                        gradient.size(2) == bank.output_height && gradient.size(3) == bank.output_width,
                    name, ": a gradient is not like its map");
    gradient = channels_last(gradient, name);
    from.push_back(gradient.data_ptr());
    if (needs[f]) found.push_back(call.empty(out));
    to.push_back(needs[f] ? found.back().data_ptr() : nullptr);
  }
  const Tensor weight_gradient = empty({bank.count, in, out}, ScalarType::Float);
  if (weight_gradient.numel() == 0 || call.x.numel() == 0) {
    for (const Tensor& map : found) zero(map);
    zero(weight_gradient);
  } else {
    const PointwiseShape shape{bank.storage, in, 1, out, out, false, false, nullptr};
    const PointwiseKernels kernels = pointwise_kernels_for(out);
    const Tensor matrices = packed_matrices(kernels, shape, weight, 1, out);
    const auto* packed = static_cast<const float*>(matrices.data_ptr());
    const Blocks blocks(call);
    const int64_t room = kernels.room(out), matrix = in * room;
    const Tensor kept = empty({bank.count * blocks.groups, matrix}, ScalarType::Float);
    auto* sums = static_cast<float*>(kept.data_ptr());
    const bool streams = worth_streaming(found);
    for_each_block(call, blocks, in, [&](const Filtered& rows) {
      float* scratch = workspace<Purpose::products>(kernels.scratch(shape));
      for (int64_t f = 0; f < bank.count; ++f) {
        const auto index = static_cast<size_t>(f);
        const void* gradient = at(from[index], rows.first_pixel, in, input);
        void* y = to[index] ? at(to[index], rows.first_pixel, out, input) : nullptr;
        float* sum = sums + (f * blocks.groups + rows.group) * matrix;
        if (rows.is_first) std::fill_n(sum, matrix, 0.0f);
        const PointwiseMaps of{&gradient, rows.maps[f], y, sum, nullptr, nullptr, streams};
        kernels.run(shape, of, packed + f * matrix, PointwisePart{0, rows.pixels, 0, 1}, scratch);
      }
    });
    add_pieces(sums, bank.count, blocks.groups, shape, room, static_cast<float*>(weight_gradient.data_ptr()));
  }
  found.push_back(weight_gradient);
  return found;
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) {
  m.impl("depthwise_pointwise", TORCH_BOX(&partnas::depthwise_pointwise));
  m.impl("depthwise_pointwise_backward", TORCH_BOX(&partnas::depthwise_pointwise_backward));
}
