// Mean and variance of every channel in one read: Welford's update over a few rows at a time in each thread, Chan's
// merge within a block, and a second kernel that adds up the blocks in double, in one order whatever ran first. A block
// takes one of its numbers away from all of them: where the mean is many deviations from zero, it would be too coarse.
// Included by kernel files only.
#pragma once

#include "cuda/channels.cuh"

namespace partnas::cuda {
namespace {

constexpr int most_measured = 120;

template <int V>
struct Moments {
  float count, mean[V], square[V];  // mean: from the pivot on; square: sum of squared deviations from the mean
};

template <int V>
__device__ __forceinline__ void clear(Moments<V>& m) {
  m.count = 0;
#pragma unroll
  for (int j = 0; j < V; ++j) m.mean[j] = m.square[j] = 0;
}

// With s and q the sums of x - mean and of its square over the new rows, the new mean is mean + s / n and the sum of
// squares grows by q - s^2 / n, n counting all rows.
template <int R, typename T, int V>
__device__ __forceinline__ void add(Moments<V>& m, const float (&pivot)[V], const Pack<T, V> (&rows)[R]) {
  if (m.count == 0) {
    rows[0].get(m.mean);
#pragma unroll
    for (int j = 0; j < V; ++j) m.mean[j] -= pivot[j];
  }
  float sum[V] = {}, squares[V] = {};
#pragma unroll
  for (int r = 0; r < R; ++r) {
    float x[V];
    rows[r].get(x);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float d = x[j] - pivot[j] - m.mean[j];
      sum[j] += d;
      squares[j] = fmaf(d, d, squares[j]);
    }
  }
  m.count += R;
  const float inverse = 1.0f / m.count;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const float moved = sum[j] * inverse;
    m.mean[j] += moved;
    m.square[j] += fmaf(-moved, sum[j], squares[j]);
  }
}

template <int V>
struct MergeRoom {
  static constexpr int half = threads / 2;
  float count[half], mean[V][half], square[V][half];
};

// Leaves in row 0 the moments of all rows. Called by all threads of the block.
template <int V>
__device__ __forceinline__ void merge_rows(Moments<V>& m, const Place& at, const Slices& slices, MergeRoom<V>& room) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int rows = slices.rows; rows > 1;) {
    const int half = (rows + 1) / 2, slot = thread - half * slices.width;
    if (at.row >= half && at.row < rows) {
      room.count[slot] = m.count;
#pragma unroll
      for (int j = 0; j < V; ++j) {
        room.mean[j][slot] = m.mean[j];
        room.square[j][slot] = m.square[j];
      }
    }
    __syncthreads();
    if (at.row < rows - half && room.count[thread] > 0) {
      const float before = m.count, count = before + room.count[thread], share = room.count[thread] / count;
      m.count = count;
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float mean = room.mean[j][thread], square = room.square[j][thread];
        const float d = mean - m.mean[j];
        m.mean[j] = before > 0 ? fmaf(d, share, m.mean[j]) : mean;
        m.square[j] = before > 0 ? m.square[j] + square + d * d * before * share : square;
      }
    }
    __syncthreads();
    rows = half;
  }
}

// What a block leaves of every channel: count, pivot, mean from there on, and sum of squared deviations.
constexpr int64_t moments_left = 4;

// Partials [segments, moments_left, C].
template <int V>
__device__ __forceinline__ void write_moments(const Moments<V>& m, const float (&pivot)[V], const Place& at,
                                              int channels, int64_t segment, float* partials) {
  if (!at.inside || at.row > 0) return;
  const int64_t row = channels;
  float* to = partials + segment * moments_left * row + static_cast<int64_t>(at.vector) * V;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    to[j] = m.count;
    to[row + j] = pivot[j];
    to[2 * row + j] = m.mean[j];
    to[3 * row + j] = m.square[j];
  }
}

// The segments of each map: segments[k] of them, `step` apart from first[k] on.
struct Measured {
  int first[most_measured], segments[most_measured];
  int step;
};

// `lanes` threads a channel; statistics [K, 2, C].
__global__ void __launch_bounds__(threads, 4)
finish_moments(const float* partials, const Measured measured, int channels, int lanes, float* statistics) {
  PARTNAS_SHARED double room[4][threads];
  const int thread = static_cast<int>(threadIdx.x), wide = threads / lanes, lane = thread / wide;
  const int k = static_cast<int>(blockIdx.y);
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * wide + thread % wide;
  const int64_t row = channels, size = moments_left * row;
  const int segments = measured.segments[k];
  const float* from = partials + measured.first[k] * size + channel;
  const bool there = channel < channels && segments > 0;
  // Deviations from the first segment's mean: in double, what they lose by cancelling is far below float32.
  const double pivot = there ? static_cast<double>(from[row]) + static_cast<double>(from[2 * row]) : 0.0;
  double count = 0, sum = 0, squares = 0, within = 0;
  if (there) {
#pragma unroll 4
    for (int s = lane; s < segments; s += lanes) {
      const float* segment = from + static_cast<int64_t>(s) * measured.step * size;
      const double n = segment[0], mean = static_cast<double>(segment[row]) + static_cast<double>(segment[2 * row]);
      const double d = mean - pivot;
      count += n;
      sum += n * d;
      squares += n * d * d;
      within += static_cast<double>(segment[3 * row]);
    }
  }
  room[0][thread] = count;
  room[1][thread] = sum;
  room[2][thread] = squares;
  room[3][thread] = within;
  __syncthreads();
  for (int half = lanes / 2; half > 0; half /= 2) {
    if (lane < half)
      for (int i = 0; i < 4; ++i) room[i][thread] += room[i][thread + half * wide];
    __syncthreads();
  }
  if (lane > 0 || channel >= channels) return;
  float* to = statistics + static_cast<int64_t>(k) * 2 * channels + channel;
  const double n = room[0][thread], moved = n > 0 ? room[1][thread] / n : 0.0;
  const double variance = n > 0 ? (room[3][thread] + room[2][thread] - room[1][thread] * moved) / n : 0.0;
  to[0] = static_cast<float>(pivot + moved);
  to[channels] = static_cast<float>(variance < 0 ? 0.0 : variance);
}

// Threads that share the adding up of so many numbers: a power of two.
inline int lanes_for(int64_t numbers) {
  int lanes = 1;
  while (lanes < 32 && lanes * 4 < numbers) lanes *= 2;
  return lanes;
}

inline Status launch_finish_moments(const float* partials, const Measured& measured, int maps, int64_t channels,
                                    float* statistics, Stream stream) {
  int most = 0;
  for (int k = 0; k < maps; ++k) most = measured.segments[k] > most ? measured.segments[k] : most;
  const int lanes = lanes_for(most);
  const dim3 grid(static_cast<unsigned>(ceil_div(channels, static_cast<int64_t>(threads / lanes))),
                  static_cast<unsigned>(maps));
  return PARTNAS_LAUNCH(finish_moments, grid, dim3(threads), 0, stream, partials, measured, static_cast<int>(channels),
                        lanes, statistics);
}

}  // namespace
}  // namespace partnas::cuda
