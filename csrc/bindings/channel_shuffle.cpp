// channel_shuffle on the CPU: whole planes (or runs of them) are copied when x is contiguous, channels inside each pixel
// when it is channels-last.
#include "cpu/channel_shuffle.h"

#include <algorithm>
#include <vector>

#include "common/tensor.h"

namespace partnas {
namespace {

using torch::stable::parallel_for;

constexpr int64_t grain_bytes = 1 << 16;
// Runs of at least this many bytes are copied one by one.
constexpr int64_t long_run = 64;

bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous() || (x.dim() != 4 && x.dim() != 5)) return false;
  int64_t expected = 1;
  const auto matches = [&](int64_t d) {
    const bool same = x.size(d) == 1 || x.stride(d) == expected;
    expected *= x.size(d);
    return same;
  };
  bool same = matches(1);
  for (int64_t d = x.dim() - 1; d >= 2; --d) same = same && matches(d);
  return same && matches(0);
}

// Output run i of each of `groups` groups is input run order[i] of the same group.
void copy_runs(const char* from, char* to, const std::vector<int64_t>& order, int64_t groups, int64_t bytes) {
  const auto runs = static_cast<int64_t>(order.size());
  const auto kernel = PARTNAS_KERNEL(copy_runs);
  parallel_for(0, groups * runs, std::max<int64_t>(1, grain_bytes / std::max<int64_t>(bytes, 1)),
               [&](int64_t begin, int64_t end) { kernel(from, to, order.data(), runs, bytes, begin, end); });
}

struct Plan {
  std::vector<ShuffleVector> vectors;
  std::vector<ShuffleStep> steps;
};

// Steps that gather `bytes` output bytes, output byte i from input byte source[i]; bytes >= shuffle_width.
Plan plan_shuffle(const std::vector<int32_t>& source) {
  constexpr int32_t window = 16;
  const auto bytes = static_cast<int32_t>(source.size());
  Plan plan;
  for (int32_t next = 0; next < bytes; next += shuffle_width) {
    const int32_t target = std::min<int32_t>(next, bytes - shuffle_width);
    plan.vectors.push_back({target, static_cast<int32_t>(plan.steps.size())});
    std::vector<int32_t> wanted(source.begin() + target, source.begin() + target + shuffle_width);
    std::sort(wanted.begin(), wanted.end());
    int32_t covered = -1;
    for (const int32_t lowest : wanted) {
      if (lowest <= covered) continue;
      ShuffleStep step{std::min(lowest, bytes - window), {}};
      for (int32_t i = 0; i < shuffle_width; ++i) {
        const int32_t offset = source[target + i] - step.source;
        step.index[i] = source[target + i] > covered && offset >= 0 && offset < window ? offset : 0x80;
      }
      covered = step.source + window - 1;
      plan.steps.push_back(step);
    }
  }
  plan.vectors.push_back({bytes, static_cast<int32_t>(plan.steps.size())});
  return plan;
}

void shuffle_pixels(const char* from, char* to, const std::vector<int64_t>& order, int64_t run_bytes, int64_t pixels) {
  const int64_t pixel_bytes = static_cast<int64_t>(order.size()) * run_bytes;
  // Small pixels are taken several at a time, to fill a vector.
  const int64_t together = (shuffle_width + pixel_bytes - 1) / pixel_bytes;
  const int64_t bytes = together * pixel_bytes, blocks = pixels / together;
  std::vector<int32_t> source;
  for (int64_t p = 0; p < together; ++p)
    for (const int64_t run : order)
      for (int64_t i = 0; i < run_bytes; ++i) source.push_back(static_cast<int32_t>(p * pixel_bytes + run * run_bytes + i));
  const Plan plan = plan_shuffle(source);
  const auto kernel = PARTNAS_KERNEL(shuffle_pixels);
  parallel_for(0, blocks, std::max<int64_t>(1, grain_bytes / bytes), [&](int64_t begin, int64_t end) {
    kernel(from, to, plan.vectors.data(), static_cast<int64_t>(plan.vectors.size()) - 1, plan.steps.data(), bytes, begin,
           end);
  });
  copy_runs(from + blocks * bytes, to + blocks * bytes, order, pixels - blocks * together, run_bytes);
}

Tensor channel_shuffle(Tensor input, std::vector<int64_t> order, int64_t depth) {
  STD_TORCH_CHECK(input.dim() >= 2, "channel_shuffle: x must be (B, C, ...)");
  const auto runs = static_cast<int64_t>(order.size());
  STD_TORCH_CHECK(runs * depth == input.size(1), "channel_shuffle: order has ", runs, " runs of ", depth,
                  " channels, x has ", input.size(1), " channels");
  for (const int64_t run : order)
    STD_TORCH_CHECK(run >= 0 && run < runs, "channel_shuffle: order names run ", run, " of ", runs);

  const bool channels_last = is_channels_last(input);
  const Tensor x = channels_last || input.is_contiguous() ? input : contiguous_copy(input);
  const auto sizes = x.sizes(), strides = x.strides();
  Tensor output = empty_strided({sizes.begin(), sizes.end()}, {strides.begin(), strides.end()}, x.scalar_type());
  if (output.numel() == 0) return output;
  advise_huge_pages(output);

  const char* from = static_cast<const char*>(x.data_ptr());
  char* to = static_cast<char*>(output.data_ptr());
  const auto element = static_cast<int64_t>(x.element_size());
  if (!channels_last) {
    copy_runs(from, to, order, x.size(0), x.numel() / x.size(0) / runs * element);
  } else if (depth * element >= long_run) {
    copy_runs(from, to, order, x.numel() / x.size(1), depth * element);
  } else {
    shuffle_pixels(from, to, order, depth * element, x.numel() / x.size(1));
  }
  return output;
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) { m.impl("channel_shuffle", TORCH_BOX(&partnas::channel_shuffle)); }
