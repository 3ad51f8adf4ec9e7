// Kernels for the emulator's own tests: right ones, and ones with a fault each.
#include "kernels.h"

#include "common/launch.cuh"

namespace partnas::cuda {
namespace {

template <typename From, typename To>
__global__ void convert_kernel(const From* x, To* y, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) y[i] = from_float<To>(to_float(x[i]));
}

template <typename T>
__global__ void copy_vectors_kernel(const T* x, T* y, int64_t n) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * vector_of<T>;
  if (i >= n) return;
  float values[vector_of<T>];
  load(x + i, values);
  store(y + i, values);
}

template <int threads>
__global__ void reverse_kernel(const float* x, float* y, bool barrier) {
  PARTNAS_SHARED float tile[threads];
  const int i = threadIdx.x;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * threads;
  tile[i] = x[start + i];
  if (barrier) __syncthreads();
  y[start + i] = tile[threads - 1 - i];
}

__global__ void reverse_dynamic_kernel(const float* x, float* y, bool barrier) {
  PARTNAS_DYNAMIC_SHARED(float, tile);
  const int i = threadIdx.x, n = blockDim.x;
  tile[i] = x[i];
  if (barrier) __syncthreads();
  y[i] = tile[n - 1 - i];
}

__global__ void reverse_warp_kernel(const float* x, float* y, bool barrier) {
  PARTNAS_SHARED float tile[64];
  const int i = threadIdx.x;
  tile[i] = x[i];
  if (barrier) __syncwarp();
  y[i] = tile[i ^ 31];
}

// Without the second barrier a thread may overwrite what its neighbour has still to read.
__global__ void rotate_kernel(const float* x, float* y, int64_t steps, bool second_barrier) {
  PARTNAS_SHARED float tile[96];
  const int i = threadIdx.x;
  tile[i] = x[i];
  __syncthreads();
  for (int64_t step = 0; step < steps; ++step) {
    const float next = tile[(i + 1) % 96];
    if (second_barrier) __syncthreads();
    tile[i] = next;
    __syncthreads();
  }
  y[i] = tile[i];
}

__global__ void sum_kernel(const float* x, float* y, int64_t n) {
  PARTNAS_SHARED float of_warp[warp_size];
  float sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
  sum = warp_sum(sum);
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  if (lane == 0) of_warp[warp] = sum;
  __syncthreads();
  if (warp > 0) return;
  sum = lane < static_cast<int>(blockDim.x) / warp_size ? of_warp[lane] : 0.f;
  sum = warp_sum(sum);
  if (lane == 0) *y = sum;
}

__global__ void shuffles_kernel(const int* x, int* y, int width, unsigned mask) {
  const int i = threadIdx.x, n = blockDim.x;
  if (!(mask >> i % warp_size & 1)) {
    for (int k = 0; k < 4; ++k) y[k * n + i] = -2;
    return;
  }
  const int value = x[i];
  y[i] = __shfl_sync(mask, value, 3, width);
  y[n + i] = __shfl_up_sync(mask, value, 1, width);
  y[2 * n + i] = __shfl_down_sync(mask, value, 1, width);
  y[3 * n + i] = __shfl_xor_sync(mask, value, 1, width);
}

__global__ void votes_kernel(const int* x, int* y, unsigned mask) {
  const int i = threadIdx.x;
  if (!(mask >> i & 1)) return;
  y[i] = static_cast<int>(__ballot_sync(mask, x[i]));
  y[32 + i] = __any_sync(mask, x[i]);
  y[64 + i] = __all_sync(mask, x[i]);
}

__global__ void block_votes_kernel(const int* x, int* y) {
  const int i = threadIdx.x, n = blockDim.x;
  y[i] = __syncthreads_count(x[i]);
  y[n + i] = __syncthreads_or(x[i]);
  y[2 * n + i] = __syncthreads_and(x[i]);
}

// Two halves of a warp, each with a mask of its own, as often as they like.
__global__ void halves_kernel(const float* x, float* y) {
  const int i = threadIdx.x, half = i / 16;
  const unsigned mask = 0xffffu << 16 * half;
  float value = x[i];
  for (int k = 0; k <= half; ++k)
    for (int lanes = 8; lanes > 0; lanes /= 2) value += __shfl_xor_sync(mask, value, lanes);
  y[i] = value;
}

__global__ void histogram_kernel(const int* x, int* y, int64_t n, bool atomic) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  if (atomic)
    atomicAdd(y + x[i], 1);
  else
    y[x[i]] += 1;
}

__global__ void clear_kernel(int* y) { y[threadIdx.x] = 0; }

__global__ void neighbours_kernel(const float* x, float* y, int64_t n, int64_t reach) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i + reach];
}

__global__ void write_past_kernel(float* y, int64_t n, int64_t past) {
  for (int64_t i = 0; i < n; ++i) y[i] = 1;
  y[n - 1 + past] = 2;
}

__global__ void index_past_kernel(float* y, int64_t index, bool in_shared) {
  PARTNAS_SHARED float shared[24];
  float local[24];
  for (int i = 0; i < 24; ++i) shared[i] = local[i] = static_cast<float>(i);
  *y = in_shared ? shared[index] : local[index];
}

__global__ void read_misaligned_kernel(const float* x, float* y) {
  *reinterpret_cast<float4*>(y) = *reinterpret_cast<const float4*>(x);
}

__global__ void divergent_kernel(float* y, int64_t kind) {
  const int i = threadIdx.x;
  y[i] = 0;
  if (kind == 0 && i < 40) __syncthreads();  // others return
  if (kind == 1) {                           // others wait elsewhere
    if (i < 40)
      __syncthreads();
    else
      __syncthreads();
  }
  if (kind == 2) {  // lanes of a warp miss
    if (i % 32 < 30) __syncwarp();
    __syncthreads();
  }
  if (kind == 3 && i != 5) y[i] = __shfl_sync(all_lanes, y[i], 0);  // lane 5 has returned
  if (kind == 4) y[i] = __shfl_sync(0x0000ffffu, y[i], 0);          // lanes that call are left out
  if (kind == 5) y[i] = __shfl_sync(all_lanes, y[i], 0);            // lanes that never were, in an uneven block
}

// Tile k + 1 is on its way while tile k is used.
__global__ void staged_kernel(const float* x, float* y, int64_t tiles, bool waits, bool barrier) {
  PARTNAS_SHARED float tile[2][128];
  const int i = threadIdx.x;  // of 32
  copy_async_16(&tile[0][4 * i], x + 4 * i);
  copy_async_commit();
  for (int64_t k = 0; k < tiles; ++k) {
    if (k + 1 < tiles) copy_async_16(&tile[(k + 1) % 2][4 * i], x + (k + 1) * 128 + 4 * i, i < 31);
    copy_async_commit();
    if (waits) copy_async_wait<1>();
    if (barrier) __syncthreads();
    for (int j = 0; j < 4; ++j) y[k * 128 + j * 32 + i] = tile[k % 2][j * 32 + i];
    if (barrier) __syncthreads();
  }
}

__global__ void half_written_kernel(float* y, int64_t written) {
  const int64_t i = threadIdx.x;
  if (i < written) y[i] = 0;
}

__global__ void between_blocks_kernel(float* y) { y[blockIdx.x] = blockIdx.x > 0 ? y[blockIdx.x - 1] + 1 : 0; }

struct Maps {
  const float* map[4];
};
__global__ void gather_kernel(Maps maps, float* y, int64_t count, int64_t n) {
  for (int64_t k = 0; k < count; ++k)
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) y[k * n + i] = maps.map[k][i];
}
__global__ void gather_table_kernel(const float* const* maps, float* y, int64_t count, int64_t n) {
  for (int64_t k = 0; k < count; ++k)
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) y[k * n + i] = maps[k][i];
}

__global__ void grid_of_kernel(int* y) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
  y[i] = static_cast<int>(i);
}

__global__ void transpose_kernel(Shape shape, const float* x, float* y) {
  for (int64_t i = threadIdx.x; i < shape.rows * shape.columns; i += blockDim.x)
    y[i % shape.columns * shape.rows + i / shape.columns] = x[i];
}

__global__ void nothing_kernel() {}

}  // namespace

Status convert(const void* x, void* y, int64_t n, Storage from, Storage to, Stream stream) {
  return dispatch(from, [&](auto a) {
    return dispatch(to, [&](auto b) {
      using From = decltype(a);
      using To = decltype(b);
      return PARTNAS_LAUNCH(convert_kernel<From, To>, static_cast<unsigned>(ceil_div(n, int64_t(128))), 128, 0, stream,
                            static_cast<const From*>(x), static_cast<To*>(y), n);
    });
  });
}

Status copy_vectors(const void* x, void* y, int64_t n, Storage storage, Stream stream) {
  return dispatch(storage, [&](auto a) {
    using T = decltype(a);
    return PARTNAS_LAUNCH(copy_vectors_kernel<T>, static_cast<unsigned>(ceil_div(n, int64_t(128 * vector_of<T>))), 128,
                          0, stream, static_cast<const T*>(x), static_cast<T*>(y), n);
  });
}

Status reverse(const float* x, float* y, int64_t n, bool barrier, Stream stream) {
  return PARTNAS_LAUNCH(reverse_kernel<128>, static_cast<unsigned>(n / 128), 128, 0, stream, x, y, barrier);
}
Status reverse_dynamic(const float* x, float* y, int64_t n, bool barrier, Stream stream) {
  return PARTNAS_LAUNCH(reverse_dynamic_kernel, 1, static_cast<unsigned>(n), n * sizeof(float), stream, x, y, barrier);
}
Status reverse_warp(const float* x, float* y, bool barrier, Stream stream) {
  return PARTNAS_LAUNCH(reverse_warp_kernel, 1, 64, 0, stream, x, y, barrier);
}
Status rotate(const float* x, float* y, int64_t steps, bool second_barrier, Stream stream) {
  return PARTNAS_LAUNCH(rotate_kernel, 1, 96, 0, stream, x, y, steps, second_barrier);
}
Status sum(const float* x, float* y, int64_t n, Stream stream) {
  return PARTNAS_LAUNCH(sum_kernel, 1, 256, 0, stream, x, y, n);
}
Status shuffles(const int* x, int* y, int64_t threads, int64_t width, unsigned mask, Stream stream) {
  return PARTNAS_LAUNCH(shuffles_kernel, 1, static_cast<unsigned>(threads), 0, stream, x, y, static_cast<int>(width),
                        mask);
}
Status votes(const int* x, int* y, unsigned mask, Stream stream) {
  return PARTNAS_LAUNCH(votes_kernel, 1, 32, 0, stream, x, y, mask);
}
Status block_votes(const int* x, int* y, int64_t threads, Stream stream) {
  return PARTNAS_LAUNCH(block_votes_kernel, 1, static_cast<unsigned>(threads), 0, stream, x, y);
}
Status halves(const float* x, float* y, Stream stream) {
  return PARTNAS_LAUNCH(halves_kernel, 1, 32, 0, stream, x, y);
}
Status histogram(const int* x, int* y, int64_t n, int64_t bins, bool atomic, Stream stream) {
  const Status status = PARTNAS_LAUNCH(clear_kernel, 1, static_cast<unsigned>(bins), 0, stream, y);
  if (status) return status;
  return PARTNAS_LAUNCH(histogram_kernel, static_cast<unsigned>(ceil_div(n, int64_t(64))), 64, 0, stream, x, y, n,
                        atomic);
}
Status neighbours(const float* x, float* y, int64_t n, int64_t reach, Stream stream) {
  return PARTNAS_LAUNCH(neighbours_kernel, static_cast<unsigned>(ceil_div(n, int64_t(64))), 64, 0, stream, x, y, n,
                        reach);
}
Status write_past(float* y, int64_t n, int64_t past, Stream stream) {
  return PARTNAS_LAUNCH(write_past_kernel, 1, 1, 0, stream, y, n, past);
}
Status index_past(float* y, int64_t index, bool shared, Stream stream) {
  return PARTNAS_LAUNCH(index_past_kernel, 1, 1, 0, stream, y, index, shared);
}
Status read_misaligned(const float* x, float* y, int64_t offset, Stream stream) {
  return PARTNAS_LAUNCH(read_misaligned_kernel, 1, 1, 0, stream, x + offset, y);
}
Status divergent(float* y, int64_t threads, int64_t kind, Stream stream) {
  return PARTNAS_LAUNCH(divergent_kernel, 2, static_cast<unsigned>(threads), 0, stream, y, kind);
}
Status staged(const float* x, float* y, int64_t tiles, bool waits, bool barrier, Stream stream) {
  return PARTNAS_LAUNCH(staged_kernel, 1, 32, 0, stream, x, y, tiles, waits, barrier);
}
Status half_written(float* y, int64_t n, int64_t written, Stream stream) {
  return PARTNAS_LAUNCH(half_written_kernel, 1, static_cast<unsigned>(n), 0, stream, y, written);
}
Status between_blocks(float* y, Stream stream) {
  return PARTNAS_LAUNCH(between_blocks_kernel, 4, 1, 0, stream, y);
}
Status read_on_host(const float* x, float* y, Stream stream) {
  return PARTNAS_LAUNCH(write_past_kernel, 1, 1, 0, stream, y, static_cast<int64_t>(*x), 0);
}
Status gather(const float* const* maps, float* y, int64_t count, int64_t n, bool on_device, Stream stream) {
  if (on_device) return PARTNAS_LAUNCH(gather_table_kernel, 1, 32, 0, stream, maps, y, count, n);
  Maps all{};
  for (int64_t k = 0; k < count; ++k) all.map[k] = maps[k];
  return PARTNAS_LAUNCH(gather_kernel, 1, 32, 0, stream, all, y, count, n);
}
Status grid_of(int* y, int64_t x, int64_t z, Stream stream) {
  return PARTNAS_LAUNCH(grid_of_kernel, dim3(static_cast<unsigned>(x), 3, static_cast<unsigned>(z)), dim3(4, 3, 2), 0,
                        stream, y);
}
Status transpose(const Shape& shape, const float* x, float* y, Stream stream) {
  return PARTNAS_LAUNCH(transpose_kernel, 1, 32, 0, stream, shape, x, y);
}
int64_t transpose_scratch(const Shape& shape, float share) {
  return static_cast<int64_t>(static_cast<float>(shape.rows * shape.columns) * share);
}
Status too_large(int64_t threads, int64_t bytes, Stream stream) {
  return PARTNAS_LAUNCH(nothing_kernel, 1, static_cast<unsigned>(threads), static_cast<size_t>(bytes), stream);
}

Facts kernels_facts() { return {{"reverse_kernel<128>", 128, 0, 32}}; }

}  // namespace partnas::cuda
