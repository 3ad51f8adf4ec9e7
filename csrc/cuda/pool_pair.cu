// 3x3 max and average pool, together or one of them, and their backward.
//
// A thread keeps to one column of windows and V channels, and walks down a strip of the image: the three columns of
// each row are reduced once, and a window is three such rows. Neighbouring columns are neighbouring threads, so that
// what they read twice comes from the first cache. Backward gathers: the threads of a block find the winner of a window
// each, tell it to their neighbours, and each adds up what the windows over its own pixels give to them.
#include "cuda/pool_pair.h"

#include <math.h>

#include "cuda/moments.cuh"

namespace partnas::cuda {
namespace {

// What a kernel is told of a PoolShape, and how it is cut: strips of rows, and tiles of columns counted through the
// whole batch.
struct Grid {
  int channels, height, width, output_height, output_width;
  int pitch, output_pitch;  // numbers in a row of an image
  int64_t columns, tiles;  // of windows: B * output_width; strips times tiles of columns
  int strip, strips, span, halo;
  Slices slices;
};

// Three neighbouring pixels; at a border the middle one stands in for the one that is not there.
template <typename T, int V>
struct Taps {
  Pack<T, V> left, middle, right;
};

// Where a column of windows reads: its middle pixel, from the row's first number on, and its neighbours from there.
struct Column {
  int middle, left, right;
  bool has_left, has_right;
};

__device__ __forceinline__ Column column_at(int column, int stride, const Grid& grid) {
  const int middle = column * stride;
  const bool has_left = middle > 0, has_right = middle + 1 < grid.width;
  return {middle * grid.channels, has_left ? -grid.channels : 0, has_right ? grid.channels : 0,
          has_left, has_right};
}

__device__ __forceinline__ int pixels(const Column& column) { return 1 + column.has_left + column.has_right; }

// The first taps of an image row; past the border those of the nearest row, for nobody to use.
template <typename T, int V>
__device__ __forceinline__ Taps<T, V> fetch(const T* image, int row, const Column& column, const Grid& grid) {
  const int inside = row < 0 ? 0 : row < grid.height ? row : grid.height - 1;
  const T* from = image + static_cast<int64_t>(inside) * grid.pitch + column.middle;
  return {Pack<T, V>::from(from + column.left), Pack<T, V>::from(from), Pack<T, V>::from(from + column.right)};
}

// The rows that each window down a column adds. At stride 1 they are fetched one window ahead, unless there is so much
// else to do or to keep in registers that nobody waits for them; at stride 2 those of one window are enough to be under
// way.
template <typename T, int V, int stride, bool ahead>
struct NewRows {
  __device__ __forceinline__ void start(const T*, int, const Column&, const Grid&) {}
  __device__ __forceinline__ void take(Taps<T, V> (&taps)[stride], const T* image, int row, bool, const Column& column,
                                       const Grid& grid) {
#pragma unroll
    for (int r = 0; r < stride; ++r) taps[r] = fetch<T, V>(image, row + r, column, grid);
  }
};

template <typename T, int V>
struct NewRows<T, V, 1, true> {
  Taps<T, V> next;

  __device__ __forceinline__ void start(const T* image, int row, const Column& column, const Grid& grid) {
    next = fetch<T, V>(image, row, column, grid);
  }
  __device__ __forceinline__ void take(Taps<T, V> (&taps)[1], const T* image, int row, bool more, const Column& column,
                                       const Grid& grid) {
    taps[0] = next;
    if (more) next = fetch<T, V>(image, row + 1, column, grid);
  }
};

// The larger of both, NaN if either is.
__device__ __forceinline__ float larger(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a >= b || a != a ? a : b;
#endif
}

// A row of a window, reduced. The largest number is one that was stored, so that packing it loses nothing.
template <typename T, int V>
struct Line {
  Pack<T, V> largest;
  float sum[V];
};

template <bool takes_max, bool takes_avg, typename T, int V>
__device__ __forceinline__ Line<T, V> reduced(const Taps<T, V>& taps, bool there, const Column& column) {
  Line<T, V> line;
  float left[V], middle[V], right[V], largest[V];
  if (!there) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      largest[j] = -INFINITY;
      line.sum[j] = 0;
    }
    line.largest = Pack<T, V>::of(largest);
    return line;
  }
  taps.left.get(left);
  taps.middle.get(middle);
  taps.right.get(right);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    if (takes_max) largest[j] = larger(larger(left[j], middle[j]), right[j]);
    if (takes_avg) line.sum[j] = left[j] + middle[j] + right[j];
  }
  if (takes_max) line.largest = Pack<T, V>::of(largest);
  if (takes_avg && !(column.has_left && column.has_right)) {
#pragma unroll
    for (int j = 0; j < V; ++j)
      line.sum[j] = (column.has_left ? left[j] : 0.0f) + middle[j] + (column.has_right ? right[j] : 0.0f);
  }
  return line;
}

// The pixels that moments are counted from, 0 for what is not finite: a map of maxima may be finite all the same.
template <typename T, int V>
__device__ __forceinline__ Pack<T, V> pivots_from(const T* pixel) {
  float x[V];
  Pack<T, V>::from(pixel).get(x);
#pragma unroll
  for (int j = 0; j < V; ++j) x[j] = fabsf(x[j]) < INFINITY ? x[j] : 0.0f;
  return Pack<T, V>::of(x);
}

// Welford's update by one row, `inverse` being one over the number of rows with it.
template <typename T, int V>
__device__ __forceinline__ void add_one(Moments<V>& m, const Pack<T, V>& pivots, const Pack<T, V>& pack,
                                        float inverse) {
  float x[V], pivot[V];
  pack.get(x);
  pivots.get(pivot);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const float d = x[j] - pivot[j] - m.mean[j];
    m.square[j] = fmaf(d * (1.0f - inverse), d, m.square[j]);
    m.mean[j] = fmaf(d, inverse, m.mean[j]);
  }
}

// partials [segments, 2, moments_left, C] where `measures`: every block walks the tiles of its segment, and leaves
// their moments.
template <typename T, int V, int stride, bool takes_max, bool takes_avg, bool measures>
__global__ void __launch_bounds__(threads, 2)
pool_kernel(const T* __restrict__ x, const Grid grid, int segments, T* __restrict__ max_map, T* __restrict__ avg_map,
            float* __restrict__ partials) {
  const int block = static_cast<int>(blockIdx.x), segment = block / grid.slices.count;
  const Place at = place_in(grid.slices, block % grid.slices.count);
  const int64_t channel = static_cast<int64_t>(at.vector) * V;
  Moments<V> of_max, of_avg;
  PARTNAS_SHARED Pack<T, V> pivots[threads];
  if (measures) {
    clear(of_max);
    clear(of_avg);
    if (at.inside && at.row == 0) {
      const int64_t unit = segment / grid.strips * grid.span, image = unit / grid.output_width;
      pivots[at.lane] = pivots_from<T, V>(x + image * grid.height * grid.pitch + channel);
    }
    __syncthreads();
  }
  for (int64_t tile = segment; tile < grid.tiles; tile += segments) {
    const int64_t unit = tile / grid.strips * grid.span + at.row;
    if (!at.inside || unit >= grid.columns) continue;
    const int64_t image = unit / grid.output_width;
    const int output_column = static_cast<int>(unit % grid.output_width);
    const Column column = column_at(output_column, stride, grid);
    const T* from = x + image * grid.height * grid.pitch + channel;
    const int begin = static_cast<int>(tile % grid.strips) * grid.strip;
    const int end = begin + grid.strip < grid.output_height ? begin + grid.strip : grid.output_height;
    const auto line_at = [&](const Taps<T, V>& taps, int row) {
      return reduced<takes_max, takes_avg>(taps, row >= 0 && row < grid.height, column);
    };

    // Of the rows of a window, the last `stride` are new.
    Line<T, V> lines[3];
    NewRows<T, V, stride, stride == 1 && !measures> news;
    int row = begin * stride - 1;
#pragma unroll
    for (int r = 0; r < 3 - stride; ++r) lines[r] = line_at(fetch<T, V>(from, row + r, column, grid), row + r);
    row += 3 - stride;
    news.start(from, row, column, grid);
    int64_t to = (image * grid.output_height + begin) * grid.output_pitch + output_column * grid.channels + channel;
    float scale = 0;  // one over the pixels of a window of `scaled` rows
    int scaled = 0;
    for (int output = begin; output < end; ++output) {
      Taps<T, V> taps[stride];
      news.take(taps, from, row, output + 1 < end, column, grid);
#pragma unroll
      for (int r = 0; r < stride; ++r) lines[3 - stride + r] = line_at(taps[r], row + r);
      row += stride;
      if (measures) of_max.count += 1;
      const float inverse = measures ? 1.0f / of_max.count : 0.0f;
      if (takes_max) {
        float largest[V], middle[V], bottom[V];
        lines[0].largest.get(largest);
        lines[1].largest.get(middle);
        lines[2].largest.get(bottom);
#pragma unroll
        for (int j = 0; j < V; ++j) largest[j] = larger(larger(largest[j], middle[j]), bottom[j]);
        const Pack<T, V> pack = Pack<T, V>::of(largest);
        pack.put(max_map + to);
        if (measures) add_one(of_max, pivots[at.lane], pack, inverse);
      }
      if (takes_avg) {
        // `row` is the one below the window.
        const int rows = 3 - (output == 0) - (row > grid.height);
        if (rows != scaled) scale = 1.0f / static_cast<float>(rows * pixels(column));
        scaled = rows;
        float average[V];
#pragma unroll
        for (int j = 0; j < V; ++j) average[j] = (lines[0].sum[j] + lines[1].sum[j] + lines[2].sum[j]) * scale;
        const Pack<T, V> pack = Pack<T, V>::of(average);
        pack.put(avg_map + to);
        if (measures) add_one(of_avg, pivots[at.lane], pack, inverse);
      }
      lines[0] = lines[stride];
      if (stride == 1) lines[1] = lines[2];
      to += grid.output_pitch;
    }
  }
  if (measures) {
    PARTNAS_SHARED MergeRoom<V> room[1];
    of_avg.count = of_max.count;
    float pivot[V];
    pivots[at.lane].get(pivot);
    merge_rows(of_max, at, grid.slices, room[0]);
    write_moments(of_max, pivot, at, grid.channels, 2 * static_cast<int64_t>(segment), partials);
    merge_rows(of_avg, at, grid.slices, room[0]);
    write_moments(of_avg, pivot, at, grid.channels, 2 * static_cast<int64_t>(segment) + 1, partials);
  }
}

template <int V>
constexpr int words = V == 1 ? 1 : V / 4;

// A row of a window: its largest number, and which of the three it is, a byte each. The first of equals, and the last
// NaN.
template <int V>
struct Winner {
  float value[V];
  unsigned tap[words<V>];
};

__device__ __forceinline__ bool beats(float challenger, float best) {
  return challenger > best || challenger != challenger;
}

template <typename T, int V>
__device__ __forceinline__ Winner<V> winner_of(const Taps<T, V>& taps, const Column& column) {
  // What stands in for a missing pixel stands for itself.
  const unsigned of_left = column.has_left ? 0 : 1, of_right = column.has_right ? 2 : 1;
  Winner<V> winner{};
  float left[V], middle[V], right[V];
  taps.left.get(left);
  taps.middle.get(middle);
  taps.right.get(right);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const bool second = beats(middle[j], left[j]);
    const float best = second ? middle[j] : left[j];
    const bool third = beats(right[j], best);
    winner.value[j] = third ? right[j] : best;
    winner.tap[j / 4] |= (third ? of_right : second ? 1u : of_left) << (8 * (j % 4));
  }
  return winner;
}

// gradient [B, C, H, W]. The blocks' columns overlap by the halo, whose threads only find winners.
template <typename T, int V, int stride, bool takes_max, bool takes_avg>
__global__ void __launch_bounds__(threads, 2)
pool_backward_kernel(const T* __restrict__ max_gradient, const T* __restrict__ avg_gradient, const T* __restrict__ x,
                     const Grid grid, T* __restrict__ gradient) {
  PARTNAS_SHARED unsigned winners[2][words<V>][threads];  // a byte each: the tap, 0 to 8
  const int thread = static_cast<int>(threadIdx.x);
  const int block = static_cast<int>(blockIdx.x), tile = block / grid.slices.count;
  const Place at = place_in(grid.slices, block % grid.slices.count);
  const int64_t channel = static_cast<int64_t>(at.vector) * V, channels = grid.channels;
  const int before = stride == 1 ? grid.halo : 0;
  const int64_t unit = static_cast<int64_t>(tile / grid.strips) * grid.span + at.row - before;
  const bool there = at.inside && unit >= 0 && unit < grid.columns && at.row < grid.span + before + grid.halo;
  const bool owner = there && at.row >= before && at.row < before + grid.span;
  const int64_t image = there ? unit / grid.output_width : 0;
  const int output_column = there ? static_cast<int>(unit % grid.output_width) : 0;
  const Column column = column_at(output_column, stride, grid);
  const int64_t image_at = image * grid.height * grid.pitch + channel;

  // The windows over a column's own pixels: its neighbour's on the left, its own, its neighbour's on the right.
  const bool reaches[3] = {owner && stride == 1 && output_column > 0, owner,
                           owner && output_column + 1 < grid.output_width};
  float scale[3] = {};  // one over the pixels of those, with `scaled` rows
  int scaled = 0;

  const int begin = tile % grid.strips * grid.strip;
  const int end = begin + grid.strip < grid.height ? begin + grid.strip : grid.height;
  const int first = stride == 2 ? begin / 2 : begin > 0 ? begin - 1 : 0, last = end / stride;

  Winner<V> lines[3];
  NewRows<T, V, stride, stride == 1> news;
  int row = first * stride - 1;
  if (takes_max && there) {
#pragma unroll
    for (int r = 0; r < 3 - stride; ++r) lines[r] = winner_of(fetch<T, V>(x + image_at, row + r, column, grid), column);
    news.start(x + image_at, row + 3 - stride, column, grid);
  }
  // Of the rows of a window and the columns of a thread.
  float sums[3][stride][V];
#pragma unroll
  for (int r = 0; r < 3; ++r)
#pragma unroll
    for (int p = 0; p < stride; ++p)
#pragma unroll
      for (int j = 0; j < V; ++j) sums[r][p][j] = 0;

  // `row` is the first of the window's.
  int64_t window = (image * grid.output_height + first) * grid.output_pitch + output_column * grid.channels + channel;
  for (int output = first; output <= last; ++output, row += stride, window += grid.output_pitch) {
    const bool exists = output < grid.output_height;
    Pack<T, V> of_max[3], of_avg[3];
#pragma unroll
    for (int n = stride - 1; n < 3; ++n) {
      if (takes_max) of_max[n] = Pack<T, V>::zero();
      if (takes_avg) of_avg[n] = Pack<T, V>::zero();
      if (reaches[n] && exists) {
        if (takes_max) of_max[n] = Pack<T, V>::from(max_gradient + window + (n - 1) * channels);
        if (takes_avg) of_avg[n] = Pack<T, V>::from(avg_gradient + window + (n - 1) * channels);
      }
    }
    unsigned(&told)[words<V>][threads] = winners[output % 2];
    if (takes_max && exists) {
      if (there) {
        Taps<T, V> taps[stride];
        news.take(taps, x + image_at, row + 3 - stride, output < last, column, grid);
#pragma unroll
        for (int r = 0; r < stride; ++r) lines[3 - stride + r] = winner_of(taps[r], column);
        const bool has_top = row >= 0, has_bottom = row + 2 < grid.height;
        unsigned word[words<V>] = {};
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const bool second = !has_top || beats(lines[1].value[j], lines[0].value[j]);
          const float best = second ? lines[1].value[j] : lines[0].value[j];
          const bool third = has_bottom && beats(lines[2].value[j], best);
          constexpr unsigned row_of_taps = 0x03030303u;
          const unsigned taps_of = third    ? lines[2].tap[j / 4] + 2 * row_of_taps
                                   : second ? lines[1].tap[j / 4] + row_of_taps
                                            : lines[0].tap[j / 4];
          word[j / 4] |= taps_of & (255u << (8 * (j % 4)));
        }
#pragma unroll
        for (int i = 0; i < words<V>; ++i) told[i][thread] = word[i];
        lines[0] = lines[stride];
        if (stride == 1) lines[1] = lines[2];
      }
      // The other half is written next, when all have read this one's predecessor.
      __syncthreads();
    }

    if (exists) {
      const int down = 3 - (row < 0) - (row + 2 >= grid.height);
      if (takes_avg && down != scaled)
#pragma unroll
        for (int n = 0; n < 3; ++n)
          scale[n] = 1.0f / static_cast<float>(down * pixels(column_at(output_column + n - 1, stride, grid)));
      scaled = down;
#pragma unroll
      for (int p = 0; p < stride; ++p) {
        float share[V] = {};
#pragma unroll
        for (int n = stride - 1; n < 3; ++n) {
          // Where the pixel is in that window, if it is.
          const int tap_column = 1 + p - stride * (n - 1);
          if (tap_column < 0 || tap_column > 2) continue;
          if (takes_max) {
            float g[V];
            of_max[n].get(g);
            const int neighbour = reaches[n] ? thread + (n - 1) * grid.slices.width : thread;
            unsigned word[words<V>];
#pragma unroll
            for (int i = 0; i < words<V>; ++i) word[i] = told[i][neighbour];
#pragma unroll
            for (int j = 0; j < V; ++j) {
              const unsigned tap = word[j / 4] >> (8 * (j % 4)) & 255u;
#pragma unroll
              for (int r = 0; r < 3; ++r)
                if (tap == static_cast<unsigned>(3 * r + tap_column)) sums[r][p][j] += g[j];
            }
          }
          if (takes_avg) {
            float g[V];
            of_avg[n].get(g);
#pragma unroll
            for (int j = 0; j < V; ++j) share[j] = fmaf(g[j], scale[n], share[j]);
          }
        }
        if (takes_avg)
#pragma unroll
          for (int j = 0; j < V; ++j)
#pragma unroll
            for (int r = 0; r < 3; ++r) sums[r][p][j] += share[j];
      }
    }

    // No later window reaches the first `stride` rows.
#pragma unroll
    for (int r = 0; r < stride; ++r) {
      if (!owner || row + r < begin || row + r >= end) continue;
      T* to = gradient + image_at + static_cast<int64_t>(row + r) * grid.pitch;
#pragma unroll
      for (int p = 0; p < stride; ++p)
        if (p == 0 || column.has_right) Pack<T, V>::of(sums[r][p]).put(to + column.middle + p * channels);
    }
#pragma unroll
    for (int r = 0; r < 3; ++r)
#pragma unroll
      for (int p = 0; p < stride; ++p)
#pragma unroll
        for (int j = 0; j < V; ++j) sums[r][p][j] = r + stride < 3 ? sums[r + stride < 3 ? r + stride : 0][p][j] : 0.0f;
  }
}

// Slices of at most 8 vectors, a line of the first cache, or of 32 numbers: many columns to a block.
Slices pool_slices(int64_t channels, int vector) { return slices_of(channels, vector, vector == 1 ? 32 : 8 * vector); }

// Cuts the rows of the maps that are written into strips: as few as give every multiprocessor enough to do, which
// `many_blocks` do.
void cut(Grid& grid, int rows, int even, int64_t many_blocks) {
  constexpr int shortest = 4, longest = 32;
  const int64_t column_tiles = ceil_div(grid.columns, grid.span);
  const int strip = strip_of(rows, column_tiles * grid.slices.count, many_blocks, shortest, longest);
  grid.strip = ceil_div(strip, even) * even;
  grid.strips = ceil_div(rows, grid.strip);
  grid.tiles = column_tiles * grid.strips;
}

Grid grid_of(const PoolShape& shape, int vector) {
  Grid grid{};
  grid.channels = static_cast<int>(shape.channels);
  grid.height = static_cast<int>(shape.height);
  grid.width = static_cast<int>(shape.width);
  grid.output_height = static_cast<int>(shape.output_height());
  grid.output_width = static_cast<int>(shape.output_width());
  grid.pitch = grid.width * grid.channels;
  grid.output_pitch = grid.output_width * grid.channels;
  grid.columns = shape.batch * grid.output_width;
  grid.slices = pool_slices(shape.channels, vector);
  return grid;
}

Grid forward_grid(const PoolShape& shape, int vector) {
  Grid grid = grid_of(shape, vector);
  grid.span = grid.slices.rows;
  cut(grid, grid.output_height, 1, 1056);
  return grid;
}

Grid backward_grid(const PoolShape& shape, int vector) {
  Grid grid = grid_of(shape, vector);
  const int rows = grid.slices.rows, stride = static_cast<int>(shape.stride);
  // Blocks of whole image rows need no neighbours' winners.
  grid.halo = grid.output_width > rows;
  grid.span = grid.halo ? rows - (stride == 1 ? 2 : 1) : rows / grid.output_width * grid.output_width;
  // Rows beyond a strip's borders cost their windows as well, and two blocks fill a multiprocessor.
  cut(grid, grid.height, stride, 528);
  return grid;
}

// Blocks of pool_kernel along the tiles, where it measures: every one walks as many.
int segments_of(const Grid& grid) {
  constexpr int64_t most_blocks = 2112;
  return static_cast<int>(ceil_div(grid.tiles, ceil_div(grid.tiles * grid.slices.count, most_blocks)));
}

unsigned blocks_of(const Grid& grid, int64_t tiles) { return static_cast<unsigned>(tiles * grid.slices.count); }

bool is_empty(const PoolShape& shape) {
  return shape.batch == 0 || shape.channels == 0 || shape.height == 0 || shape.width == 0;
}

template <typename T, int V, bool takes_max, bool takes_avg, bool measures>
Status launch_pool(const PoolShape& shape, const void* x, const Grid& grid, int segments, void* max_map, void* avg_map,
                   float* partials, Stream stream) {
  const auto kernel = shape.stride == 1 ? pool_kernel<T, V, 1, takes_max, takes_avg, measures>
                                        : pool_kernel<T, V, 2, takes_max, takes_avg, measures>;
  return PARTNAS_LAUNCH(kernel, dim3(blocks_of(grid, segments)), dim3(threads), 0, stream, static_cast<const T*>(x),
                        grid, segments, static_cast<T*>(max_map), static_cast<T*>(avg_map), partials);
}

template <typename T, int V, bool takes_max, bool takes_avg>
Status launch_backward(const PoolShape& shape, const void* max_gradient, const void* avg_gradient, const void* x,
                       void* gradient, Stream stream) {
  const Grid grid = backward_grid(shape, V);
  const auto kernel = shape.stride == 1 ? pool_backward_kernel<T, V, 1, takes_max, takes_avg>
                                        : pool_backward_kernel<T, V, 2, takes_max, takes_avg>;
  return PARTNAS_LAUNCH(kernel, dim3(blocks_of(grid, grid.tiles)), dim3(threads), 0, stream,
                        static_cast<const T*>(max_gradient), static_cast<const T*>(avg_gradient),
                        static_cast<const T*>(x), grid, static_cast<T*>(gradient));
}

}  // namespace

bool pool_fits(const PoolShape& shape) {
  constexpr int64_t most = 1 << 30;
  return shape.height <= most && shape.width <= most && shape.width * shape.channels <= most;
}

int64_t pool_pair_scratch(Storage storage, const PoolShape& shape) {
  if (is_empty(shape) || !pool_fits(shape)) return 0;
  return larger_of_widths(storage, [&](int vector) {
    return 2 * moments_left * shape.channels * segments_of(forward_grid(shape, vector));
  });
}

Status pool_pair(Storage storage, const PoolShape& shape, const void* x, float* scratch, void* max_map, void* avg_map,
                 float* statistics, Stream stream) {
  if (shape.channels == 0) return success;
  if (!pool_fits(shape)) return invalid_value;
  return dispatch(storage, [&](auto number) {
    using T = decltype(number);
    const bool vectors = divides<T>(shape.channels) && is_aligned(x) && is_aligned(max_map) && is_aligned(avg_map);
    return with_width<T>(vectors, [&](auto width) {
      constexpr int V = decltype(width)::value;
      Measured measured{};
      measured.step = 2;
      if (!is_empty(shape)) {
        const Grid grid = forward_grid(shape, V);
        const int segments = segments_of(grid);
        for (int k = 0; k < 2; ++k) {
          measured.first[k] = k;
          measured.segments[k] = segments;
        }
        const Status status =
            launch_pool<T, V, true, true, true>(shape, x, grid, segments, max_map, avg_map, scratch, stream);
        if (status != success) return status;
      }
      return launch_finish_moments(scratch, measured, 2, shape.channels, statistics, stream);
    });
  });
}

Status pool(Storage storage, const PoolShape& shape, bool takes_max, const void* x, void* map, Stream stream) {
  if (is_empty(shape)) return success;
  if (!pool_fits(shape)) return invalid_value;
  return dispatch(storage, [&](auto number) {
    using T = decltype(number);
    return with_width<T>(divides<T>(shape.channels) && is_aligned(x) && is_aligned(map), [&](auto width) {
      constexpr int V = decltype(width)::value;
      const Grid grid = forward_grid(shape, V);
      const auto launch = takes_max ? launch_pool<T, V, true, false, false> : launch_pool<T, V, false, true, false>;
      return launch(shape, x, grid, static_cast<int>(grid.tiles), map, map, nullptr, stream);
    });
  });
}

Status pool_pair_backward(Storage storage, const PoolShape& shape, const void* max_gradient, const void* avg_gradient,
                          const void* x, void* gradient, Stream stream) {
  if (is_empty(shape)) return success;
  if (!pool_fits(shape)) return invalid_value;
  return dispatch(storage, [&](auto number) {
    using T = decltype(number);
    const bool vectors = divides<T>(shape.channels) && is_aligned(max_gradient) && is_aligned(avg_gradient) &&
                         is_aligned(gradient) && (!max_gradient || is_aligned(x));
    return with_width<T>(vectors, [&](auto width) {
      constexpr int V = decltype(width)::value;
      const auto launch = !avg_gradient   ? launch_backward<T, V, true, false>
                          : !max_gradient ? launch_backward<T, V, false, true>
                                          : launch_backward<T, V, true, true>;
      return launch(shape, max_gradient, avg_gradient, x, gradient, stream);
    });
  });
}

Facts pool_pair_facts() {
  return {{"pool_kernel<.*>", threads, 0, 16},
          {"pool_backward_kernel<.*>", threads, 0, 16},
          {"finish_moments", threads, 0, 32}};
}

}  // namespace partnas::cuda
