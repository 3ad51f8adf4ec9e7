// channel_shuffle on the CPU: whole planes (or runs of them) are copied when x is contiguous, channels inside each pixel
// when it is channels-last.
#include "cpu/channel_shuffle.h"

#include <cstring>
#include <vector>

#include "common/tensor.h"

namespace partnas {
namespace {

using torch::stable::parallel_for;

constexpr int64_t grain_bytes = 1 << 16;
// A run of at least this many bytes is worth a memcpy of its own.
constexpr int64_t long_run = 128;

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

// Both sides in runs of `bytes`: output run i of each of `groups` groups is input run order[i] of the same group.
void copy_runs(const char* from, char* to, const std::vector<int64_t>& order, int64_t groups, int64_t bytes) {
  const auto runs = static_cast<int64_t>(order.size());
  parallel_for(0, groups * runs, std::max<int64_t>(1, grain_bytes / std::max<int64_t>(bytes, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t group = i / runs;
                   std::memcpy(to + i * bytes, from + (group * runs + order[i % runs]) * bytes,
                               static_cast<size_t>(bytes));
                 }
               });
}

void permute_channels(const char* from, char* to, const std::vector<int64_t>& order, int64_t depth, int64_t pixels,
                      int64_t element) {
  std::vector<int32_t> source;
  for (const int64_t run : order)
    for (int64_t d = 0; d < depth; ++d) source.push_back(static_cast<int32_t>(run * depth + d));
  const auto channels = static_cast<int64_t>(source.size());
  const auto kernel = PARTNAS_KERNEL(permute_pixels);
  parallel_for(0, pixels, std::max<int64_t>(1, grain_bytes / (channels * element)),
               [&](int64_t begin, int64_t end) { kernel(element, from, to, source.data(), channels, begin, end); });
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
    permute_channels(from, to, order, depth, x.numel() / x.size(1), element);
  }
  return output;
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) { m.impl("channel_shuffle", TORCH_BOX(&partnas::channel_shuffle)); }
