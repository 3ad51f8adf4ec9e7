// Bilinear upsampling by two or four.
//
// The centres of four neighbouring pixels of the small map enclose factor x factor pixels of the large one: a cell. There
// is one more cell than pixels along each axis, those at the edges half outside. Forward, a thread takes some channels of a
// cell: it reads four vectors and writes the cell. Backward, a thread takes some channels of a few pixels, one below the
// other: it goes down the rows of the large map, adds up each along x, and adds that to the pixels above and below it.
#include "cuda/upsample.h"

#include <limits.h>

#include <algorithm>

#include "cuda/channels.cuh"

namespace partnas::cuda {
namespace {

// `vectors`: of a pixel; `blocks`: of a row of cells.
struct Cells {
  int height, width, vectors, blocks;
};

// `columns`: of the small map, counted through the whole batch. A block takes a tile of them, in a strip of rows.
struct Strips {
  int height, width;
  int64_t columns, tiles;
  int strip, strips;
  Slices slices;
};

// The weight of the later of two pixels in the k-th output between them.
template <int factor>
__device__ __forceinline__ float later(int k) {
  return (static_cast<float>(k) + 0.5f) / factor;
}

// a and b mixed; exactly a where b is a.
template <int count>
__device__ __forceinline__ void mix(const float (&a)[count], const float (&b)[count], float weight_of_b,
                                    float (&to)[count]) {
#pragma unroll
  for (int i = 0; i < count; ++i) to[i] = fmaf(a[i], 1 - weight_of_b, b[i] * weight_of_b);
}

template <typename T, int count, int factor>
__global__ void __launch_bounds__(threads, 4)
    upsample_cells(const T* __restrict__ small, T* __restrict__ large, Cells s) {
  const int inside = static_cast<int>(blockIdx.x) % s.blocks * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
  const int x = inside / s.vectors, vector = inside % s.vectors;
  if (x > s.width) return;
  const int row = static_cast<int>(blockIdx.x) / s.blocks, image = row / (s.height + 1), y = row % (s.height + 1);
  const int64_t pixel = static_cast<int64_t>(s.vectors) * count;
  const T* from = small + static_cast<int64_t>(image) * s.height * s.width * pixel + vector * count;
  const int top = max(y - 1, 0), bottom = min(y, s.height - 1), left = max(x - 1, 0), right = min(x, s.width - 1);
  Pack<T, count> corners[4];
  corners[0] = Pack<T, count>::from(from + (static_cast<int64_t>(top) * s.width + left) * pixel);
  corners[1] = Pack<T, count>::from(from + (static_cast<int64_t>(bottom) * s.width + left) * pixel);
  corners[2] = Pack<T, count>::from(from + (static_cast<int64_t>(top) * s.width + right) * pixel);
  corners[3] = Pack<T, count>::from(from + (static_cast<int64_t>(bottom) * s.width + right) * pixel);
  const int first_row = y * factor - factor / 2, first_column = x * factor - factor / 2;
  T* to = large + (static_cast<int64_t>(image) * s.height * factor * s.width * factor) * pixel + vector * count;
#pragma unroll
  for (int j = 0; j < factor; ++j) {
    float a[count], b[count], before[count], after[count];
    corners[0].get(a);
    corners[1].get(b);
    mix(a, b, later<factor>(j), before);
    corners[2].get(a);
    corners[3].get(b);
    mix(a, b, later<factor>(j), after);
    const int line = first_row + j;
    if (line < 0 || line >= s.height * factor) continue;
#pragma unroll
    for (int i = 0; i < factor; ++i) {
      const int column = first_column + i;
      if (column < 0 || column >= s.width * factor) continue;
      mix(before, after, later<factor>(i), a);
      Pack<T, count>::of(a).put(to + (static_cast<int64_t>(line) * s.width * factor + column) * pixel);
    }
  }
}

template <typename T, int count, int factor>
__global__ void __launch_bounds__(threads, 2)
    upsample_strips(const T* __restrict__ large, T* __restrict__ small, Strips s) {
  const int block = static_cast<int>(blockIdx.x), tile = block / s.slices.count;
  const Place at = place_in(s.slices, block % s.slices.count);
  const int64_t unit = static_cast<int64_t>(tile / s.strips) * s.slices.rows + at.row;
  if (!at.inside || unit >= s.columns) return;
  const int64_t image = unit / s.width;
  const int x = static_cast<int>(unit % s.width);
  const int begin = tile % s.strips * s.strip, end = min(begin + s.strip, s.height);
  const int64_t pixel = static_cast<int64_t>(s.slices.vectors) * count;
  const T* from = large + image * s.height * factor * s.width * factor * pixel + at.vector * count;
  T* to = small + image * s.height * s.width * pixel + at.vector * count;
  const int first_column = x * factor - factor / 2;

  // Of the pixel above the cell that is read, and of the one below.
  float above[count], below[count];
#pragma unroll
  for (int i = 0; i < count; ++i) above[i] = below[i] = 0;
  for (int y = begin; y <= end; ++y) {
#pragma unroll
    for (int j = 0; j < factor; ++j) {
      const int line = y * factor - factor / 2 + j;
      if (line < 0 || line >= s.height * factor) continue;
      const T* row = from + static_cast<int64_t>(line) * s.width * factor * pixel;
      Pack<T, count> loaded[2 * factor];
#pragma unroll
      for (int i = 0; i < 2 * factor; ++i) {
        const int column = first_column + i;
        if (column >= 0 && column < s.width * factor) loaded[i] = Pack<T, count>::from(row + column * pixel);
      }
      float sum[count];
#pragma unroll
      for (int k = 0; k < count; ++k) sum[k] = 0;
#pragma unroll
      for (int i = 0; i < 2 * factor; ++i) {
        const int column = first_column + i;
        if (column < 0 || column >= s.width * factor) continue;
        const bool at_edge = i < factor ? x == 0 : x == s.width - 1;
        const float weight = at_edge ? 1.0f : i < factor ? later<factor>(i) : 1 - later<factor>(i - factor);
        float g[count];
        loaded[i].get(g);
#pragma unroll
        for (int k = 0; k < count; ++k) sum[k] = fmaf(g[k], weight, sum[k]);
      }
      const float of_above = y == s.height ? 1.0f : 1 - later<factor>(j), of_below = y == 0 ? 1.0f : later<factor>(j);
#pragma unroll
      for (int k = 0; k < count; ++k) {
        above[k] = fmaf(sum[k], of_above, above[k]);
        below[k] = fmaf(sum[k], of_below, below[k]);
      }
    }
    if (y > begin) Pack<T, count>::of(above).put(to + (static_cast<int64_t>(y - 1) * s.width + x) * pixel);
#pragma unroll
    for (int k = 0; k < count; ++k) {
      above[k] = below[k];
      below[k] = 0;
    }
  }
}

// Slices of at most 32 vectors, so that a block has neighbours that read the same pixels; and strips as long as leave
// every multiprocessor something to do.
Strips strips_of(int64_t batch, int64_t height, int64_t width, int64_t channels, int count) {
  constexpr int64_t many_blocks = 528;
  constexpr int shortest = 4, longest = 16;
  Strips s{};
  s.height = static_cast<int>(height);
  s.width = static_cast<int>(width);
  s.columns = batch * width;
  s.slices = slices_of(channels, count, 32 * count);
  s.tiles = ceil_div(s.columns, s.slices.rows);
  s.strip = strip_of(height, s.tiles * s.slices.count, many_blocks, shortest, longest);
  s.strips = ceil_div(s.height, s.strip);
  return s;
}

// job(T(), integral constants of the elements of a vector and of the factor).
template <int number>
struct Constant {
  static constexpr int value = number;
};

template <typename Job>
Status choose(Storage storage, bool aligned, int64_t channels, int64_t factor, const Job& job) {
  return dispatch(storage, [&](auto type) {
    using T = decltype(type);
    const bool vectors = aligned && channels % vector_of<T> == 0;
    if (factor == 2)
      return vectors ? job(type, Constant<vector_of<T>>(), Constant<2>()) : job(type, Constant<1>(), Constant<2>());
    return vectors ? job(type, Constant<vector_of<T>>(), Constant<4>()) : job(type, Constant<1>(), Constant<4>());
  });
}

}  // namespace

bool upsample_fits(int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t factor) {
  constexpr int64_t most = INT_MAX / 2;
  return height <= most / factor && (channels == 0 || width <= most / factor / channels) &&
         batch <= most / (height + 1);
}

Status upsample(Storage storage, const void* small, int64_t batch, int64_t height, int64_t width, int64_t channels,
                int64_t factor, void* large, Stream stream) {
  if (batch * height * width * channels == 0) return success;
  if ((factor != 2 && factor != 4) || !upsample_fits(batch, height, width, channels, factor)) return invalid_value;
  return choose(storage, is_aligned(small) && is_aligned(large), channels, factor, [&](auto type, auto count, auto by) {
    using T = decltype(type);
    const int vectors = static_cast<int>(channels / decltype(count)::value);
    const int64_t across = (width + 1) * vectors;
    const int64_t together = std::min<int64_t>(threads, ceil_div(across, warp_size) * warp_size);
    const int64_t blocks = ceil_div(across, together), all = batch * (height + 1) * blocks;
    if (all > INT_MAX) return invalid_value;
    return PARTNAS_LAUNCH(upsample_cells<T, decltype(count)::value, decltype(by)::value>,
                          dim3(static_cast<unsigned>(all)), dim3(static_cast<unsigned>(together)), 0, stream,
                          static_cast<const T*>(small), static_cast<T*>(large),
                          Cells{static_cast<int>(height), static_cast<int>(width), vectors, static_cast<int>(blocks)});
  });
}

Status upsample_backward(Storage storage, const void* large, int64_t batch, int64_t height, int64_t width,
                         int64_t channels, int64_t factor, void* small, Stream stream) {
  if (batch * height * width * channels == 0) return success;
  if ((factor != 2 && factor != 4) || !upsample_fits(batch, height, width, channels, factor)) return invalid_value;
  return choose(storage, is_aligned(small) && is_aligned(large), channels, factor, [&](auto type, auto count, auto by) {
    using T = decltype(type);
    const Strips strips = strips_of(batch, height, width, channels, decltype(count)::value);
    const int64_t blocks = strips.tiles * strips.strips * strips.slices.count;
    if (blocks > INT_MAX) return invalid_value;
    return PARTNAS_LAUNCH(upsample_strips<T, decltype(count)::value, decltype(by)::value>,
                          dim3(static_cast<unsigned>(blocks)), dim3(threads), 0, stream, static_cast<const T*>(large),
                          static_cast<T*>(small), strips);
  });
}

Facts upsample_facts() {
  return {{"upsample_cells<.*>", threads, 0, 32}, {"upsample_strips<.*>", threads, 0, 16}};
}

}  // namespace partnas::cuda
