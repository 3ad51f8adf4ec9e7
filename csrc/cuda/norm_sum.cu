// Statistics, weighted sum and backward of batch-normed maps.
//
// Every kernel walks all maps together, so that each map, the gradient and the output cross the memory bus once. What a
// channel of a branch is centred on and scaled by stands in shared memory. The centre is taken away before the scaling:
// where a map's mean is many deviations from zero, scaling first would lose the digits that matter.
#include "cuda/norm_sum.h"

#include "cuda/moments.cuh"

namespace partnas::cuda {
namespace {

static_assert(most_branches <= most_measured);

// Blocks of each kernel: a whole number of times what an H100 holds, so that none of its multiprocessors waits long for
// the last of them. Smaller GPUs are filled as well.
constexpr int64_t multiprocessors = 132, stats_blocks = 9 * multiprocessors, reduce_blocks = 8 * multiprocessors,
                  apply_blocks = 18 * multiprocessors;

// Channels of a slice at the most.
constexpr int most_channels = 128;

// Tiles that a block takes, so that there are not many more than `blocks`.
int64_t tiles_together(int64_t tiles, int64_t blocks) { return tiles > blocks ? ceil_div(tiles, blocks) : 1; }

struct Rows {
  int64_t begin, end;
};

__device__ __forceinline__ Rows rows_of(int segment, int64_t segment_rows, int64_t rows) {
  const int64_t begin = segment * segment_rows, end = begin + segment_rows;
  return {begin, end < rows ? end : rows};
}

// job(row, how many) over the rows that are a thread's, `step` apart: R at a time, then one by one.
template <int R, typename Job>
__device__ __forceinline__ void for_rows(const Rows& rows, int own, int step, const Job& job) {
  int64_t row = rows.begin + own;
  for (; row + (R - 1) * step < rows.end; row += R * step) job(row, Width<R>());
  for (; row < rows.end; row += step) job(row, Width<1>());
}

// ---- norm_stats

struct StatsMaps {
  const void* x[most_branches];
  int64_t rows[most_branches];
  int first[most_branches + 1];  // segment of each map
};

constexpr int stats_rows = 4;

template <typename T, int V>
__global__ void __launch_bounds__(threads, 3)
norm_stats_kernel(const StatsMaps maps, const Slices slices, int64_t segment_rows, int channels, float* partials) {
  PARTNAS_SHARED MergeRoom<V> room[1];
  const int block = static_cast<int>(blockIdx.x), segment = block / slices.count;
  const Place at = place_in(slices, block % slices.count);
  int k = 0;
  while (maps.first[k + 1] <= segment) ++k;

  Moments<V> m;
  float pivot[V] = {};
  clear(m);
  if (at.inside) {
    const T* x = static_cast<const T*>(maps.x[k]) + static_cast<int64_t>(at.vector) * V;
    const int64_t step = static_cast<int64_t>(slices.rows) * channels;
    const Rows mine = rows_of(segment - maps.first[k], segment_rows, maps.rows[k]);
    Pack<T, V>::from(x + mine.begin * channels).get(pivot);
    for_rows<stats_rows>(mine, at.row, slices.rows, [&](int64_t row, auto together) {
      constexpr int n = decltype(together)::value;
      Pack<T, V> packs[n];
#pragma unroll
      for (int r = 0; r < n; ++r) packs[r] = Pack<T, V>::from(x + row * channels + r * step);
      add(m, pivot, packs);
    });
  }
  merge_rows(m, at, slices, room[0]);
  write_moments(m, pivot, at, channels, segment, partials);
}

struct Stats {
  Slices slices;
  int64_t segment_rows;
  int first[most_branches + 1];  // segment of each map
};

// Segments of as many rows in every map.
Stats stats_shape(const int64_t* rows, int maps, int64_t channels, int vector) {
  Stats shape{slices_of(channels, vector, most_channels), 0, {}};
  const int64_t tile = static_cast<int64_t>(shape.slices.rows) * stats_rows;
  int64_t tiles = 0;
  for (int k = 0; k < maps; ++k) tiles += ceil_div(rows[k], tile);
  shape.segment_rows = tile * tiles_together(tiles * shape.slices.count, stats_blocks);
  for (int k = 0; k < maps; ++k)
    shape.first[k + 1] = shape.first[k] + static_cast<int>(ceil_div(rows[k], shape.segment_rows));
  return shape;
}

// ---- norm_sum

struct SumInputs {
  const void* x[most_branches];
};

// Numbers that a thread holds of the rows it sums at once.
constexpr int held = 16;
template <int V>
constexpr int rows_held = V == 1 ? 4 : held / V;

template <typename T, int V>
__global__ void __launch_bounds__(threads, 3)
norm_sum_kernel(const SumInputs inputs, int maps, int branches, const float* __restrict__ statistics,
                const float* __restrict__ weights, const float* __restrict__ identity_weights,
                const float* __restrict__ shift, int64_t rows, int channels, const Slices slices,
                int64_t segment_rows, float eps, T* __restrict__ output) {
  PARTNAS_DYNAMIC_SHARED(float, constants);  // [branches, 2, width * V]: centre and slope
  const int block = static_cast<int>(blockIdx.x), slice = block % slices.count, segment = block / slices.count;
  const Place at = place_in(slices, slice);
  const int wide = slices.width * V, first_channel = slice * wide;
  for (int i = static_cast<int>(threadIdx.x); i < branches * wide; i += threads) {
    const int k = i / wide, own = i % wide, c = first_channel + own;
    float center = 0, slope = 0;
    if (k >= maps) {
      slope = identity_weights[k - maps];
    } else if (c < channels) {
      const float* of_map = statistics + static_cast<int64_t>(k) * 2 * channels + c;
      center = of_map[0];
      slope = weights[static_cast<int64_t>(k) * channels + c] / sqrtf(of_map[channels] + eps);
    }
    constants[2 * k * wide + own] = center;
    constants[(2 * k + 1) * wide + own] = slope;
  }
  __syncthreads();
  if (!at.inside) return;

  const int64_t channel = static_cast<int64_t>(at.vector) * V;
  float start[V];
#pragma unroll
  for (int j = 0; j < V; ++j) start[j] = shift ? shift[channel + j] : 0.0f;
  const float* own = constants + at.lane * V;
  const int64_t step = static_cast<int64_t>(slices.rows) * channels;
  const auto sum_up = [&](int64_t place, auto together) {
    constexpr int n = decltype(together)::value, maps_under_way = V == 4 ? 1 : 2;
    float sum[n][V];
#pragma unroll
    for (int r = 0; r < n; ++r)
#pragma unroll
      for (int j = 0; j < V; ++j) sum[r][j] = start[j];
#pragma unroll maps_under_way
    for (int k = 0; k < branches; ++k) {
      const T* x = static_cast<const T*>(inputs.x[k]) + place;
      Pack<T, V> packs[n];
#pragma unroll
      for (int r = 0; r < n; ++r) packs[r] = Pack<T, V>::from(x + r * step);
      const float* center = own + 2 * k * wide;
      const float* slope = center + wide;
#pragma unroll
      for (int r = 0; r < n; ++r) {
        float v[V];
        packs[r].get(v);
#pragma unroll
        for (int j = 0; j < V; ++j) sum[r][j] = fmaf(v[j] - center[j], slope[j], sum[r][j]);
      }
    }
#pragma unroll
    for (int r = 0; r < n; ++r) Pack<T, V>::of(sum[r]).put(output + place + r * step);
  };
  const Rows mine = rows_of(segment, segment_rows, rows);
  for_rows<rows_held<V>>(mine, at.row, slices.rows,
                         [&](int64_t row, auto together) { sum_up(row * channels + channel, together); });
}

// Bytes of constants that slices are made narrower for.
constexpr int constants_room = 24 << 10;

// How norm_sum and its backward are launched: `floats` constants for each channel of a slice.
struct Apply {
  Slices slices;
  int64_t segment_rows;
  int segments, dynamic_bytes;

  unsigned blocks() const { return static_cast<unsigned>(segments) * static_cast<unsigned>(slices.count); }
};

Apply apply_shape(int64_t rows, int64_t channels, int vector, int floats) {
  constexpr int least_channels = 32, float_bytes = 4;
  constexpr int64_t most_tiles = 16;
  int slice = most_channels;
  while (slice > least_channels && slice * floats * float_bytes > constants_room) slice /= 2;
  const Slices slices = slices_of(channels, vector, slice);
  const int64_t tile = static_cast<int64_t>(slices.rows) * (vector == 1 ? rows_held<1> : held / vector);
  const int64_t together = tiles_together(ceil_div(rows, tile) * slices.count, apply_blocks);
  const int64_t segment_rows = tile * (together < most_tiles ? together : most_tiles);
  return {slices, segment_rows, static_cast<int>(ceil_div(rows, segment_rows)),
          floats * slices.width * vector * float_bytes};
}

// ---- norm_sum_reduce

constexpr int group_size = 4;

// Sums over the rows of a block, left in row 0. Called by all threads of the block; room [N, threads / 2].
template <int N>
__device__ __forceinline__ void sum_rows(float (&x)[N], int row, int rows, int width, float* room) {
  constexpr int slots = threads / 2;
  const int thread = static_cast<int>(threadIdx.x);
  for (; rows > 1;) {
    const int half = (rows + 1) / 2;
    if (row >= half && row < rows)
#pragma unroll
      for (int i = 0; i < N; ++i) room[i * slots + thread - half * width] = x[i];
    __syncthreads();
    if (row < rows - half)
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] += room[i * slots + thread];
    __syncthreads();
    rows = half;
  }
}

// M branches at the most, from which the gradient is read once; the blocks of one place are neighbours, so that all
// groups but the first find it in the cache.
template <typename T, int V, int M>
__global__ void __launch_bounds__(threads, 2)
norm_sum_reduce_kernel(const SumInputs inputs, int maps, int branches, int groups, const T* __restrict__ gradient,
                       const float* __restrict__ statistics, int64_t rows, int channels, const Slices slices,
                       int64_t segment_rows, float* __restrict__ sums, float* __restrict__ dots) {
  constexpr int R = V == 1 ? 4 : group_size / M;
  PARTNAS_SHARED float room[(1 + M) * V * threads / 2];
  const int block = static_cast<int>(blockIdx.x), group = block % groups, place = block / groups;
  const int slice = place % slices.count, segment = place / slices.count;
  const Place at = place_in(slices, slice);
  const int first = branches * group / groups, count = branches * (group + 1) / groups - first;
  const int64_t channel = static_cast<int64_t>(at.vector) * V;

  // of [0] the gradient, then each branch
  float totals[(1 + M) * V], center[M * V];
#pragma unroll
  for (int i = 0; i < (1 + M) * V; ++i) totals[i] = 0;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const bool is_map = at.inside && m < count && first + m < maps;
    const float* mean = statistics + static_cast<int64_t>(first + m) * 2 * channels + channel;
#pragma unroll
    for (int j = 0; j < V; ++j) center[m * V + j] = is_map ? mean[j] : 0.0f;
  }
  const auto add = [&](int64_t row, auto together) {
    constexpr int n = decltype(together)::value;
    const int64_t offset = row * channels + channel, stride = static_cast<int64_t>(slices.rows) * channels;
    Pack<T, V> gradients[n], packs[M][n];
#pragma unroll
    for (int r = 0; r < n; ++r) gradients[r] = Pack<T, V>::from(gradient + offset + r * stride);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int r = 0; r < n; ++r)
        if (m < count) packs[m][r] = Pack<T, V>::from(static_cast<const T*>(inputs.x[first + m]) + offset + r * stride);
#pragma unroll
    for (int r = 0; r < n; ++r) {
      float g[V];
      gradients[r].get(g);
#pragma unroll
      for (int j = 0; j < V; ++j) totals[j] += g[j];
#pragma unroll
      for (int m = 0; m < M; ++m) {
        if (m >= count) continue;
        float x[V];
        packs[m][r].get(x);
#pragma unroll
        for (int j = 0; j < V; ++j)
          totals[(1 + m) * V + j] = fmaf(g[j], x[j] - center[m * V + j], totals[(1 + m) * V + j]);
      }
    }
  };
  if (at.inside) for_rows<R>(rows_of(segment, segment_rows, rows), at.row, slices.rows, add);

  sum_rows(totals, at.row, slices.rows, slices.width, room);
  const bool first_row = at.inside && at.row == 0;
  float* to = sums + static_cast<int64_t>(segment) * (1 + maps) * channels + channel;
  if (first_row && group == 0)
#pragma unroll
    for (int j = 0; j < V; ++j) to[j] = totals[j];
  if (first_row)
#pragma unroll
    for (int m = 0; m < M; ++m)
      if (m < count && first + m < maps)
#pragma unroll
        for (int j = 0; j < V; ++j) to[static_cast<int64_t>(1 + first + m) * channels + j] = totals[(1 + m) * V + j];

  if (first + count <= maps) return;
  float dot[M];
#pragma unroll
  for (int m = 0; m < M; ++m) {
    dot[m] = 0;
#pragma unroll
    for (int j = 0; j < V; ++j) dot[m] += first_row ? totals[(1 + m) * V + j] : 0.0f;
  }
  const int thread = static_cast<int>(threadIdx.x);
  sum_rows(dot, thread, slices.width, 1, room);
  if (thread == 0)
#pragma unroll
    for (int m = 0; m < M; ++m)
      if (m < count && first + m >= maps)
        dots[static_cast<int64_t>(place) * (branches - maps) + first + m - maps] = dot[m];
}

// to[i] = the sum of from[n * columns + i] over `count` n, `lanes` threads to each; `blocks` for all columns.
struct ColumnSum {
  const float* from;
  float* to;
  int64_t columns, count;
  int lanes, blocks;
};

ColumnSum column_sum(const float* from, float* to, int64_t columns, int64_t count) {
  const int lanes = lanes_for(count);
  return {from, to, columns, count, lanes, static_cast<int>(ceil_div(columns, static_cast<int64_t>(threads / lanes)))};
}

__global__ void __launch_bounds__(threads, 4) sum_columns(const ColumnSum one, const ColumnSum other) {
  PARTNAS_SHARED double room[threads];
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const bool is_one = block < one.blocks;
  const float* from = is_one ? one.from : other.from;
  const int64_t columns = is_one ? one.columns : other.columns, count = is_one ? one.count : other.count;
  const int lanes = is_one ? one.lanes : other.lanes, wide = threads / lanes, lane = thread / wide;
  const int64_t column = static_cast<int64_t>(is_one ? block : block - one.blocks) * wide + thread % wide;
  double sum = 0;
  if (column < columns) {
#pragma unroll 4
    for (int64_t n = lane; n < count; n += lanes) sum += static_cast<double>(from[n * columns + column]);
  }
  room[thread] = sum;
  __syncthreads();
  for (int half = lanes / 2; half > 0; half /= 2) {
    if (lane < half) room[thread] += room[thread + half * wide];
    __syncthreads();
  }
  if (lane == 0 && column < columns) (is_one ? one.to : other.to)[column] = static_cast<float>(room[thread]);
}

struct Reduce {
  Slices slices;
  int64_t segment_rows;
  int groups, segments;
};

Reduce reduce_shape(int branches, int64_t rows, int64_t channels, int vector) {
  const Slices slices = slices_of(channels, vector, most_channels);
  const int groups = branches > group_size ? ceil_div(branches, group_size) : 1;
  const int64_t tile = static_cast<int64_t>(slices.rows) * group_size;
  const int64_t segment_rows = tile * tiles_together(ceil_div(rows, tile) * slices.count * groups, reduce_blocks);
  return {slices, segment_rows, groups, static_cast<int>(ceil_div(rows, segment_rows))};
}

// ---- norm_sum_backward

struct BackwardInputs {
  const void* x[most_branches];
  void* gradient[most_branches];
  int number[most_branches];  // of the map or identity
};

template <typename T, int V>
__global__ void __launch_bounds__(threads, 3)
norm_sum_backward_kernel(const BackwardInputs inputs, int maps, int branches, const T* __restrict__ gradient,
                         const float* __restrict__ statistics, const float* __restrict__ weights,
                         const float* __restrict__ means, const float* __restrict__ identity_weights, int64_t rows,
                         int channels, const Slices slices, int64_t segment_rows, float eps) {
  PARTNAS_DYNAMIC_SHARED(float, constants);  // mean of the gradient; [branches, 3, width * V]: centre, slope, curve
  const int block = static_cast<int>(blockIdx.x), slice = block % slices.count, segment = block / slices.count;
  const Place at = place_in(slices, slice);
  const int wide = slices.width * V, first_channel = slice * wide;
  for (int i = static_cast<int>(threadIdx.x); i < (branches + 1) * wide; i += threads) {
    const int own = i % wide, c = first_channel + own, b = i / wide - 1;
    if (c >= channels) continue;
    if (b < 0) {
      constants[own] = means[c];
      continue;
    }
    const int64_t k = inputs.number[b];
    float center = 0, slope = 0, curve = 0;
    if (b < maps) {
      const float* of_map = statistics + k * 2 * channels + c;
      const float rstd = 1.0f / sqrtf(of_map[channels] + eps);
      center = of_map[0];
      slope = weights[k * channels + c] * rstd;
      curve = slope * rstd * rstd * means[(k + 1) * channels + c];
    } else {
      slope = identity_weights[k];
    }
    float* to = constants + (1 + 3 * b) * wide + own;
    to[0] = center;
    to[wide] = slope;
    to[2 * wide] = curve;
  }
  __syncthreads();
  if (!at.inside) return;

  const int64_t channel = static_cast<int64_t>(at.vector) * V;
  const float* own = constants + at.lane * V;
  const int64_t step = static_cast<int64_t>(slices.rows) * channels;
  const auto form = [&](int64_t place, auto together) {
    constexpr int n = decltype(together)::value;
    Pack<T, V> gradients[n];
#pragma unroll
    for (int r = 0; r < n; ++r) gradients[r] = Pack<T, V>::from(gradient + place + r * step);
    for (int b = 0; b < maps; ++b) {
      const T* x = static_cast<const T*>(inputs.x[b]) + place;
      T* to = static_cast<T*>(inputs.gradient[b]) + place;
      Pack<T, V> packs[n];
#pragma unroll
      for (int r = 0; r < n; ++r) packs[r] = Pack<T, V>::from(x + r * step);
      const float* center = own + (1 + 3 * b) * wide;
      const float *slope = center + wide, *curve = slope + wide;
#pragma unroll
      for (int r = 0; r < n; ++r) {
        float g[V], v[V];
        gradients[r].get(g);
        packs[r].get(v);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = slope[j] * (g[j] - own[j]) - curve[j] * (v[j] - center[j]);
        Pack<T, V>::of(v).put(to + r * step);
      }
    }
    for (int b = maps; b < branches; ++b) {
      T* to = static_cast<T*>(inputs.gradient[b]) + place;
      const float slope = own[(2 + 3 * b) * wide];
#pragma unroll
      for (int r = 0; r < n; ++r) {
        float g[V];
        gradients[r].get(g);
#pragma unroll
        for (int j = 0; j < V; ++j) g[j] *= slope;
        Pack<T, V>::of(g).put(to + r * step);
      }
    }
  };
  const Rows mine = rows_of(segment, segment_rows, rows);
  for_rows<rows_held<V>>(mine, at.row, slices.rows,
                         [&](int64_t row, auto together) { form(row * channels + channel, together); });
}

template <typename Pointer>
bool all_aligned(const Pointer* pointers, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!is_aligned(pointers[i])) return false;
  return true;
}

template <typename T, int V, int M>
Status launch_reduce(const Reduce& shape, const void* gradient, const SumInputs& inputs, int maps, int branches,
                     const float* statistics, int64_t rows, int64_t channels, float* sums, float* dots, Stream stream) {
  const dim3 grid(static_cast<unsigned>(shape.segments * shape.slices.count * shape.groups));
  return PARTNAS_LAUNCH((norm_sum_reduce_kernel<T, V, M>), grid, dim3(threads), 0, stream, inputs, maps, branches,
                        shape.groups, static_cast<const T*>(gradient), statistics, rows, static_cast<int>(channels),
                        shape.slices, shape.segment_rows, sums, dots);
}

}  // namespace

int64_t norm_stats_scratch(Storage storage, const int64_t* rows, int maps, int64_t channels) {
  return larger_of_widths(storage, [&](int vector) {
    return moments_left * channels * stats_shape(rows, maps, channels, vector).first[maps];
  });
}

Status norm_stats(Storage storage, const void* const* maps, const int64_t* rows, int count, int64_t channels,
                  float* scratch, float* statistics, Stream stream) {
  if (count == 0 || channels == 0) return success;
  if (count > most_branches) return invalid_value;
  return dispatch(storage, [&](auto number) {
    using T = decltype(number);
    return with_width<T>(divides<T>(channels) && all_aligned(maps, count), [&](auto width) {
      constexpr int V = decltype(width)::value;
      StatsMaps arguments{};
      Measured measured{};
      measured.step = 1;
      const Stats shape = stats_shape(rows, count, channels, V);
      for (int k = 0; k < count; ++k) {
        arguments.x[k] = maps[k];
        arguments.rows[k] = rows[k];
        arguments.first[k + 1] = shape.first[k + 1];
        measured.first[k] = shape.first[k];
        measured.segments[k] = shape.first[k + 1] - shape.first[k];
      }
      const int segments = shape.first[count];
      if (segments > 0) {
        const dim3 grid(static_cast<unsigned>(segments) * static_cast<unsigned>(shape.slices.count));
        const Status status =
            PARTNAS_LAUNCH((norm_stats_kernel<T, V>), grid, dim3(threads), 0, stream, arguments, shape.slices,
                           shape.segment_rows, static_cast<int>(channels), scratch);
        if (status != success) return status;
      }
      return launch_finish_moments(scratch, measured, count, channels, statistics, stream);
    });
  });
}

Status norm_sum(Storage storage, const void* const* inputs, int maps, int identities, const float* statistics,
                const float* weights, const float* identity_weights, const float* shift, int64_t rows, int64_t channels,
                float eps, void* output, Stream stream) {
  const int branches = maps + identities;
  if (rows == 0 || channels == 0) return success;
  if (branches > most_branches) return invalid_value;
  return dispatch(storage, [&](auto number) {
    using T = decltype(number);
    const bool vectors = divides<T>(channels) && all_aligned(inputs, branches) && is_aligned(output);
    return with_width<T>(vectors, [&](auto width) {
      constexpr int V = decltype(width)::value;
      SumInputs arguments{};
      for (int k = 0; k < branches; ++k) arguments.x[k] = inputs[k];
      const Apply shape = apply_shape(rows, channels, V, 2 * branches);
      return PARTNAS_LAUNCH((norm_sum_kernel<T, V>), dim3(shape.blocks()), dim3(threads),
                            static_cast<size_t>(shape.dynamic_bytes), stream, arguments, maps, branches, statistics,
                            weights, identity_weights, shift, rows, static_cast<int>(channels), shape.slices,
                            shape.segment_rows, eps, static_cast<T*>(output));
    });
  });
}

int64_t norm_sum_reduce_scratch(Storage storage, int maps, int identities, int64_t rows, int64_t channels) {
  return larger_of_widths(storage, [&](int vector) {
    const Reduce shape = reduce_shape(maps + identities, rows, channels, vector);
    return shape.segments * ((1 + maps) * channels + static_cast<int64_t>(shape.slices.count) * identities);
  });
}

Status norm_sum_reduce(Storage storage, const void* gradient, const void* const* inputs, int maps, int identities,
                       const float* statistics, int64_t rows, int64_t channels, float* scratch, float* sums,
                       float* dots, Stream stream) {
  const int branches = maps + identities;
  if (branches > most_branches) return invalid_value;
  if (channels == 0) rows = 0;
  if (channels == 0 && identities == 0) return success;
  return dispatch(storage, [&](auto number) {
    using T = decltype(number);
    const bool vectors = divides<T>(channels) && all_aligned(inputs, branches) && is_aligned(gradient);
    return with_width<T>(vectors, [&](auto width) {
      constexpr int V = decltype(width)::value;
      SumInputs arguments{};
      for (int k = 0; k < branches; ++k) arguments.x[k] = inputs[k];
      const Reduce shape = reduce_shape(branches, rows, channels, V);
      const int64_t columns = (1 + maps) * channels;
      float* partial_dots = scratch + shape.segments * columns;
      const auto launch = branches <= 1   ? launch_reduce<T, V, 1>
                          : branches == 2 ? launch_reduce<T, V, 2>
                                          : launch_reduce<T, V, group_size>;
      if (rows > 0) {
        const Status status = launch(shape, gradient, arguments, maps, branches, statistics, rows, channels, scratch,
                                     partial_dots, stream);
        if (status != success) return status;
      }
      const ColumnSum of_sums = column_sum(scratch, sums, columns, shape.segments);
      const ColumnSum of_dots =
          column_sum(partial_dots, dots, identities, static_cast<int64_t>(shape.segments) * shape.slices.count);
      return PARTNAS_LAUNCH(sum_columns, dim3(static_cast<unsigned>(of_sums.blocks + of_dots.blocks)), dim3(threads), 0,
                            stream, of_sums, of_dots);
    });
  });
}

Status norm_sum_backward(Storage storage, const void* gradient, const void* const* maps, const int64_t* wanted,
                         int wanted_count, const int64_t* wanted_identities, int wanted_identities_count,
                         const float* statistics, const float* weights, const float* means,
                         const float* identity_weights, int64_t rows, int64_t channels, float eps,
                         void* const* gradients, Stream stream) {
  const int branches = wanted_count + wanted_identities_count;
  if (rows == 0 || channels == 0 || branches == 0) return success;
  if (branches > most_branches) return invalid_value;
  return dispatch(storage, [&](auto number) {
    using T = decltype(number);
    const bool vectors = divides<T>(channels) && all_aligned(maps, wanted_count) && all_aligned(gradients, branches) &&
                         is_aligned(gradient);
    return with_width<T>(vectors, [&](auto width) {
      constexpr int V = decltype(width)::value;
      BackwardInputs arguments{};
      for (int b = 0; b < branches; ++b) {
        const bool is_map = b < wanted_count;
        arguments.x[b] = is_map ? maps[b] : nullptr;
        arguments.gradient[b] = gradients[b];
        arguments.number[b] = static_cast<int>(is_map ? wanted[b] : wanted_identities[b - wanted_count]);
      }
      const Apply shape = apply_shape(rows, channels, V, 1 + 3 * branches);
      return PARTNAS_LAUNCH((norm_sum_backward_kernel<T, V>), dim3(shape.blocks()), dim3(threads),
                            static_cast<size_t>(shape.dynamic_bytes), stream, arguments, wanted_count, branches,
                            static_cast<const T*>(gradient), statistics, weights, means, identity_weights, rows,
                            static_cast<int>(channels), shape.slices, shape.segment_rows, eps);
    });
  });
}

Facts norm_sum_facts() {
  return {{"norm_stats_kernel<.*>", threads, 0, 24},
          {"norm_sum_kernel<.*>", threads, constants_room, 16},
          {"norm_sum_reduce_kernel<.*>", threads, 0, 16},
          {"norm_sum_backward_kernel<.*>", threads, constants_room, 16},
          {"sum_columns", threads, 0, 32},
          {"finish_moments", threads, 0, 32}};
}

}  // namespace partnas::cuda
