// depthwise_bank on the CPU: layouts, allocation and threads around the kernels of csrc/cpu/depthwise_bank.cpp.
#include "bindings/depthwise_bank.h"

namespace partnas {
namespace {

using torch::stable::parallel_for;

// Rows that a task takes at the least, pixels whose products a float32 sum adds at the most, and tasks to share out.
constexpr int64_t least_rows = 8;
constexpr int64_t most_pixels = 4096;
constexpr int64_t enough_tasks = 16;

// How the maps are cut: images into blocks of `rows` rows of the maps, all blocks into `groups` whose sums are taken
// apart, fixed by the shapes so that the sums do not depend on the threads.
struct Cut {
  int64_t rows, blocks, groups, pieces;

  explicit Cut(const BankCall& call) {
    const Bank& bank = call.bank;
    const int64_t units = call.units(), height = bank.output_height;
    const int64_t wanted = std::max(ceil_div(enough_tasks, call.batch * units),
                                    ceil_div(height * bank.output_width, most_pixels));
    rows = ceil_div(height, std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, height / least_rows)));
    blocks = ceil_div(height, rows);
    pieces = call.batch * blocks;
    groups = std::min(pieces, std::max(ceil_div(enough_tasks, units),
                                       ceil_div(pieces * rows * bank.output_width, most_pixels)));
  }
};

// Runs job(piece, group) for every channel vector of every block of every image, each group's in order.
template <typename Job>
void for_each_piece(const BankCall& call, const Cut& cut, const Job& job) {
  const Bank& bank = call.bank;
  const int64_t units = call.units(), vectors = call.vectors();
  const int64_t products = bank.taps * call.kernels.lanes() * bank.output_width * cut.rows * cut.pieces / cut.groups;
  parallel_for(0, cut.groups * units, std::max<int64_t>(1, bank_grain / std::max<int64_t>(products, 1)),
               [&](int64_t begin, int64_t end) {
                 float* scratch = workspace<Purpose::scratch>(call.kernels.scratch(bank));
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t group = task / units, unit = task % units;
                   for (int64_t v = unit; v < (unit + 1 < units ? unit + 1 : vectors); ++v)
                     for (int64_t p = cut.pieces * group / cut.groups; p < cut.pieces * (group + 1) / cut.groups; ++p) {
                       const int64_t first = p % cut.blocks * cut.rows;
                       job(Piece{p / cut.blocks, first, std::min(first + cut.rows, bank.output_height), v}, group,
                           scratch);
                     }
                 }
               });
}

std::vector<Tensor> depthwise_bank(Tensor input, std::vector<Tensor> weights, std::vector<int64_t> dilations,
                                   int64_t stride, std::optional<Tensor> statistics, std::optional<Tensor> scale,
                                   std::optional<Tensor> shift, double eps, bool relu) {
  BankCall call("depthwise_bank", input, weights, dilations, stride, statistics, scale, shift, eps, relu);
  std::vector<Tensor> maps;
  std::vector<void*> pointers;
  for (size_t f = 0; f < weights.size(); ++f) {
    maps.push_back(call.empty(call.bank.channels));
    pointers.push_back(maps.back().data_ptr());
  }
  if (maps.empty() || call.x.numel() == 0) return maps;

  call.bank.streams = worth_streaming(maps);
  const float* taps = call.packed_taps();
  const int64_t block = call.bank.taps * call.kernels.lanes();
  const void* from = call.x.data_ptr();
  for_each_piece(call, Cut(call), [&](const Piece& piece, int64_t, float* scratch) {
    call.kernels.forward(call.bank, from, taps + piece.vector * block, piece, pointers.data(), scratch);
  });
  return maps;
}

// [2][C] of the sums of all groups, in double.
std::vector<double> total_sums(const BankCall& call, const float* sums, int64_t groups, int64_t stride) {
  const int64_t lanes = call.kernels.lanes(), channels = call.bank.channels;
  std::vector<double> total(static_cast<size_t>(2 * channels), 0);
  for (int64_t v = 0; v < call.vectors(); ++v) {
    const int64_t first = std::min(v * lanes, std::max<int64_t>(channels - lanes, 0));
    for (int64_t which = 0; which < 2; ++which)
      for (int64_t lane = 0; lane < std::min(lanes, channels); ++lane) {
        double sum = 0;
        for (int64_t group = 0; group < groups; ++group)
          sum += sums[group * stride + (2 * v + which) * lanes + lane];
        total[static_cast<size_t>(which * channels + first + lane)] = sum;
      }
  }
  return total;
}

// Batch norm's backward through its statistics, in place, once the sums are known.
void through_statistics(const BankCall& call, const std::vector<double>& sums, Tensor& gradient) {
  const int64_t channels = call.bank.channels, pixels = call.x.numel() / channels;
  std::vector<float> mean, slope;
  for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
    mean.push_back(static_cast<float>(sums[c] / static_cast<double>(pixels)));
    slope.push_back(static_cast<float>(sums[static_cast<size_t>(channels) + c] / static_cast<double>(pixels) *
                                       call.rstd[c] * call.rstd[c]));
  }
  const void* x = call.x.data_ptr();
  void* to = gradient.data_ptr();
  parallel_for(0, pixels, std::max<int64_t>(1, bank_grain / 16 / channels), [&](int64_t begin, int64_t end) {
    call.kernels.normalise(call.bank, x, mean.data(), slope.data(), begin, end, to);
  });
}

Tensor as_vector(const std::vector<double>& from, int64_t first, int64_t count, const std::vector<float>* factor) {
  Tensor result = empty({count}, ScalarType::Float);
  auto* to = static_cast<float*>(result.data_ptr());
  for (int64_t i = 0; i < count; ++i) {
    const double value = from[static_cast<size_t>(first + i)];
    to[i] = static_cast<float>(factor ? value * (*factor)[static_cast<size_t>(i)] : value);
  }
  return result;
}

std::vector<Tensor> depthwise_bank_backward(std::vector<Tensor> gradients, Tensor input, std::vector<Tensor> weights,
                                            std::vector<int64_t> dilations, int64_t stride,
                                            std::optional<Tensor> statistics, std::optional<Tensor> scale,
                                            std::optional<Tensor> shift, double eps, bool relu,
                                            std::vector<int64_t> needs, bool before_norm) {
  BankCall call("depthwise_bank", input, weights, dilations, stride, statistics, scale, shift, eps, relu);
  STD_TORCH_CHECK(gradients.size() == weights.size() && needs.size() == weights.size() + 3,
                  "depthwise_bank_backward: give a gradient for each filter, and needs for x, scale, shift and each");
  const Bank& bank = call.bank;
  const int64_t channels = bank.channels;
  const bool needs_x = needs[0], whole_norm = statistics && !before_norm;
  const bool needs_sums = needs[1] || needs[2] || (needs_x && whole_norm);

  std::vector<const void*> pointers;
  for (Tensor& gradient : gradients) {
    check_bank_gradient(gradient, call.x, bank.output_height, bank.output_width, "depthwise_bank_backward");
    gradient = channels_last(gradient, call.name);
    pointers.push_back(gradient.data_ptr());
  }
  std::vector<Tensor> found;
  BankGradients wanted{};
  if (needs_x) {
    found.push_back(empty_like_map(call.x));
    wanted.x = found[0].data_ptr();
    wanted.scaled = scale && !statistics;
  }
  std::vector<Tensor> weight_gradients;
  std::vector<float*> to(weights.size(), nullptr);
  for (size_t f = 0; f < weights.size(); ++f) {
    if (!needs[3 + f]) continue;
    const int64_t size = call.filters[f].size;
    weight_gradients.push_back(empty({channels, size, size}, ScalarType::Float));
    to[f] = static_cast<float*>(weight_gradients.back().data_ptr());
    call.filters[f].needs_weight = true;
  }
  std::vector<double> totals(static_cast<size_t>(2 * channels), 0);

  if (call.x.numel() == 0 || weights.empty()) {
    for (const Tensor& t : found) zero(t);
    for (const Tensor& t : weight_gradients) zero(t);
  } else {
    const Cut cut(call);
    const int64_t lanes = call.kernels.lanes(), vectors = call.vectors();
    const int64_t weight_block = weight_gradients.empty() ? 0 : bank.taps * lanes;
    const int64_t weight_stride = vectors * weight_block, sum_stride = vectors * 2 * lanes;
    float* weight_sums = workspace<Purpose::sums>(cut.groups * (weight_stride + sum_stride));
    float* sums = weight_sums + cut.groups * weight_stride;
    const float* taps = call.packed_taps();
    const void* x = call.x.data_ptr();
    for_each_piece(call, cut, [&](const Piece& rows, int64_t group, float* scratch) {
      Piece piece = rows;
      piece.begin *= stride, piece.end = std::min(piece.end * stride, bank.height);
      BankGradients part = wanted;
      if (weight_block) part.weights = weight_sums + group * weight_stride + piece.vector * weight_block;
      if (needs_sums) part.sums = sums + group * sum_stride + piece.vector * 2 * lanes;
      if (rows.image * cut.blocks + rows.begin / cut.rows == cut.pieces * group / cut.groups) {
        if (part.weights) std::fill(part.weights, part.weights + weight_block, 0.0f);
        if (part.sums) std::fill(part.sums, part.sums + 2 * lanes, 0.0f);
      }
      call.kernels.backward(bank, x, taps + piece.vector * bank.taps * lanes, piece, pointers.data(), part, scratch);
    });
    if (weight_block) {
      const int64_t grain = std::max<int64_t>(1, bank_grain / 16 / (weight_block * cut.groups));
      const int64_t units = call.units();
      parallel_for(0, units, grain, [&](int64_t begin, int64_t end) {
        for (int64_t v = begin; v < (end < units ? end : vectors); ++v)
          call.kernels.unpack(bank, weight_sums + v * weight_block, cut.groups, weight_stride, v, to.data());
      });
    }
    if (needs_sums) totals = total_sums(call, sums, cut.groups, sum_stride);
    if (needs_x && whole_norm) through_statistics(call, totals, found[0]);
  }
  if (needs[1]) found.push_back(as_vector(totals, channels, channels, statistics ? &call.rstd : nullptr));
  if (needs[2]) found.push_back(as_vector(totals, 0, channels, nullptr));
  found.insert(found.end(), weight_gradients.begin(), weight_gradients.end());
  return found;
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) {
  m.impl("depthwise_bank", TORCH_BOX(&partnas::depthwise_bank));
  m.impl("depthwise_bank_backward", TORCH_BOX(&partnas::depthwise_bank_backward));
}
