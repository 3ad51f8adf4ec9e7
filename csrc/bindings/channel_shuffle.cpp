// channel_shuffle on the CPU. A group of runs is a sample when x is contiguous, a pixel when it is channels-last; long
// runs are copied, short ones shuffled byte by byte in registers.
#include "cpu/channel_shuffle.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "common/channel_shuffle.h"

namespace partnas {
namespace {

using torch::stable::parallel_for;

constexpr int64_t grain_bytes = 1 << 16;
// Results of at least this many bytes are written past the caches: smaller ones stay there, as does what they are made of.
constexpr int64_t streamed_bytes = 12 << 20;
// Runs of at least this many bytes are copied one by one.
constexpr int64_t long_run = 64;
// Fewer blocks than this are gathered in less time than their steps are planned.
constexpr int64_t worth_a_plan = 16;
// Small pixels are taken so many at a time that they are whole cache lines, up to this many bytes.
constexpr int64_t cache_line = 64, longest_block = 4096;

// Output run i of each of `groups` groups is input run order[i] of the same group.
void copy_runs(const char* from, char* to, const std::vector<int64_t>& order, int64_t groups, int64_t bytes,
               bool streams) {
  const auto runs = static_cast<int64_t>(order.size());
  const auto kernel = PARTNAS_KERNEL(copy_runs);
  parallel_for(0, groups * runs, std::max<int64_t>(1, grain_bytes / std::max<int64_t>(bytes, 1)),
               [&](int64_t begin, int64_t end) { kernel(from, to, order.data(), runs, bytes, begin, end, streams); });
}

struct Plan {
  std::vector<ShuffleVector> vectors;
  std::vector<ShuffleStep> steps;
};

// The step for the output vector at unit `target` whose window begins at unit `first`; it takes the units of `source`
// that lie in the window and come after `covered`.
ShuffleStep step_at(const std::vector<int32_t>& source, ShuffleForm form, int32_t target, int32_t first,
                    int32_t covered) {
  ShuffleStep step{first * form.unit, 0, {}};
  for (int32_t i = 0; i < form.width / form.unit; ++i) {
    const int32_t from = source[static_cast<size_t>(target + i)];
    const bool taken = from > covered && from < first + form.window / form.unit;
    step.mask |= static_cast<uint32_t>(taken) << i;
    const uint32_t index = taken ? static_cast<uint32_t>(from - first) : 0x80;
    std::memcpy(step.index + i * form.unit, &index, static_cast<size_t>(form.unit));
  }
  return step;
}

// Steps that gather a block of source.size() units, at least a vector and a window: output unit i is unit source[i].
Plan plan_shuffle(const std::vector<int32_t>& source, ShuffleForm form) {
  const auto units = static_cast<int32_t>(source.size());
  const int32_t width = form.width / form.unit, window = form.window / form.unit;
  Plan plan;
  for (int32_t next = 0; next < units; next += width) {
    const int32_t target = std::min(next, units - width);
    plan.vectors.push_back({target * form.unit, static_cast<int32_t>(plan.steps.size())});
    std::vector<int32_t> wanted(source.begin() + target, source.begin() + target + width);
    std::sort(wanted.begin(), wanted.end());
    int32_t covered = -1;
    for (const int32_t lowest : wanted) {
      if (lowest <= covered) continue;
      // Windows on the window's own grid cross no cache line where a block is a whole number of them.
      const int32_t first = units % window == 0 ? lowest / window * window : std::min(lowest, units - window);
      plan.steps.push_back(step_at(source, form, target, first, covered));
      covered = first + window - 1;
    }
  }
  plan.vectors.push_back({units * form.unit, static_cast<int32_t>(plan.steps.size())});
  return plan;
}

// For output unit i of `pixels` pixels in a row, the input unit that it comes from.
std::vector<int32_t> unit_sources(const std::vector<int64_t>& order, int64_t run_units, int64_t pixels) {
  std::vector<int32_t> source;
  source.reserve(static_cast<size_t>(pixels * run_units) * order.size());
  for (int64_t p = 0; p < pixels; ++p)
    for (const int64_t run : order)
      for (int64_t i = 0; i < run_units; ++i)
        source.push_back(static_cast<int32_t>((p * static_cast<int64_t>(order.size()) + run) * run_units + i));
  return source;
}

void gather_pixels(const char* from, char* to, const std::vector<int64_t>& order, int64_t run_bytes, int32_t unit,
                   int64_t pixels) {
  const std::vector<int32_t> source = unit_sources(order, run_bytes / unit, 1);
  const auto units = static_cast<int64_t>(source.size());
  const auto kernel = PARTNAS_KERNEL(gather_pixels);
  parallel_for(0, pixels, std::max<int64_t>(1, grain_bytes / (units * unit)), [&](int64_t begin, int64_t end) {
    kernel(from, to, source.data(), units, unit, begin, end);
  });
}

void shuffle_pixels(const char* from, char* to, const std::vector<int64_t>& order, int64_t run_bytes, int64_t pixels,
                    bool streams) {
  const int32_t unit = run_bytes % 4 == 0 ? 4 : run_bytes % 2 == 0 ? 2 : 1;
  const ShuffleForm form = PARTNAS_KERNEL(shuffle_form)(unit);
  const int64_t pixel_bytes = static_cast<int64_t>(order.size()) * run_bytes;
  const int64_t whole_lines = cache_line / std::gcd(pixel_bytes, cache_line);
  const int64_t together = pixel_bytes * whole_lines <= longest_block
                               ? whole_lines
                               : (std::max(form.width, form.window) + pixel_bytes - 1) / pixel_bytes;
  const int64_t blocks = form.width ? pixels / together : 0;
  if (blocks < worth_a_plan) return gather_pixels(from, to, order, run_bytes, unit, pixels);

  const Plan plan = plan_shuffle(unit_sources(order, run_bytes / form.unit, together), form);
  const int64_t bytes = together * pixel_bytes;
  const auto kernel = PARTNAS_KERNEL(shuffle_blocks);
  parallel_for(0, blocks, std::max<int64_t>(1, grain_bytes / bytes), [&](int64_t begin, int64_t end) {
    kernel(form, from, to, plan.vectors.data(), static_cast<int64_t>(plan.vectors.size()) - 1, plan.steps.data(), bytes,
           begin, end, streams);
  });
  gather_pixels(from + blocks * bytes, to + blocks * bytes, order, run_bytes, unit, pixels - blocks * together);
}

// False where there is no way for so many groups.
bool interleave_pixels(const char* from, char* to, int64_t groups, int64_t units, int64_t pixels, bool streams) {
  const auto kernel = PARTNAS_KERNEL(interleave_pixels);
  if (groups < 2 || !kernel(from, to, groups, units / groups, 0, 0, streams)) return false;
  parallel_for(0, pixels, std::max<int64_t>(1, grain_bytes / (units * 4)), [&](int64_t begin, int64_t end) {
    kernel(from, to, groups, units / groups, begin, end, streams);
  });
  return true;
}

std::vector<int64_t> order_of_groups(int64_t runs, int64_t groups) {
  std::vector<int64_t> order;
  order.reserve(static_cast<size_t>(runs));
  for (int64_t j = 0; j < runs / groups; ++j)
    for (int64_t group = 0; group < groups; ++group) order.push_back(group * (runs / groups) + j);
  return order;
}

Tensor channel_shuffle(Tensor input, int64_t groups_of_runs, std::vector<int64_t> order, int64_t depth) {
  check_shuffle(input, groups_of_runs, order, depth);
  const int64_t runs = input.size(1) / depth;
  const bool channels_last = has_inner_channels(input);
  const Tensor x = channels_last || input.is_contiguous() ? input : contiguous_copy(input);
  const auto sizes = x.sizes();
  Tensor output = empty_strided({sizes.begin(), sizes.end()}, shuffle_strides(x, channels_last), x.scalar_type());
  if (output.numel() == 0) return output;
  const bool streams = output.numel() * static_cast<int64_t>(output.element_size()) >= streamed_bytes;
  if (streams) advise_huge_pages(output);

  const char* from = static_cast<const char*>(x.data_ptr());
  char* to = static_cast<char*>(output.data_ptr());
  const int64_t groups = channels_last ? x.numel() / x.size(1) : x.size(0);
  const int64_t run_bytes = x.numel() / groups / runs * static_cast<int64_t>(x.element_size());
  if (run_bytes == 4 && interleave_pixels(from, to, groups_of_runs, runs, groups, streams)) return output;
  if (groups_of_runs > 0) order = order_of_groups(runs, groups_of_runs);
  if (run_bytes >= long_run) {
    copy_runs(from, to, order, groups, run_bytes, streams);
  } else {
    shuffle_pixels(from, to, order, run_bytes, groups, streams);
  }
  return output;
}

}  // namespace
}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CPU, m) { m.impl("channel_shuffle", TORCH_BOX(&partnas::channel_shuffle)); }
