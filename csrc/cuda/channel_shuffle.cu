// Channel permutation: every byte read once and written once.
//
// Long runs, or what no vector divides, move as units of up to 16 bytes, each found by its index (units). Short runs inside
// a pixel move through shared memory (tiles): whole pixels come in as 16-byte vectors, and vectors that go out are put
// together from their units there. An order is an argument of the kernel, so that nothing is copied to the device; a long
// one is cut over several launches, which then move units.
#include "cuda/channel_shuffle.h"

#include <limits.h>

#include <algorithm>
#include <numeric>

#include "common/launch.cuh"

namespace partnas::cuda {
namespace {

constexpr int threads = 256, units_each = 4, order_length = 960;
constexpr int most_tile_bytes = 16 << 10, most_dynamic_bytes = 48 << 10;
// Runs of at least this many bytes, if they are whole vectors, need no tile.
constexpr int64_t long_run = 64;

struct Order {
  int run[order_length];
};

// Pixels of `runs` runs of `units` units; output runs [first, first + count).
struct Shape {
  int64_t pixels;
  int runs, units, first, count, groups;
};

__device__ __forceinline__ int source_of(int run, const Shape& shape, const Order& order) {
  if (shape.groups) return run % shape.groups * (shape.runs / shape.groups) + run / shape.groups;
  return order.run[run - shape.first];
}

template <typename Unit>
__global__ void __launch_bounds__(threads)
    channel_shuffle_units(const Unit* __restrict__ input, Unit* __restrict__ output, Shape shape,
                          const __grid_constant__ Order order) {
  // Where the block begins: everything beyond that is counted in 32 bits, and nearly always that as well.
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * (threads * units_each);
  const auto units = static_cast<unsigned>(shape.units), count = static_cast<unsigned>(shape.count);
  int64_t pixel;
  unsigned run, unit;
  if (begin <= UINT_MAX) {
    const auto small = static_cast<unsigned>(begin);
    pixel = small / units / count;
    run = small / units % count;
    unit = small % units;
  } else {
    pixel = begin / units / count;
    run = static_cast<unsigned>(begin / units % count);
    unit = static_cast<unsigned>(begin % units);
  }
  Unit values[units_each];
  int64_t to[units_each];
#pragma unroll
  for (int i = 0; i < units_each; ++i) {
    unsigned at = unit + static_cast<unsigned>(i * threads) + threadIdx.x;
    unsigned its_run = run + at / units;
    at %= units;
    const int64_t its_pixel = pixel + its_run / count;
    its_run %= count;
    to[i] = -1;
    if (its_pixel < shape.pixels) {
      const int target = shape.first + static_cast<int>(its_run);
      const int64_t before = its_pixel * shape.runs;
      values[i] = __ldg(input + (before + source_of(target, shape, order)) * shape.units + at);
      to[i] = (before + target) * shape.units + at;
    }
  }
#pragma unroll
  for (int i = 0; i < units_each; ++i)
    if (to[i] >= 0) output[to[i]] = values[i];
}

// 16 bytes put together from units.
struct Vector {
  unsigned words[4] = {0, 0, 0, 0};

  template <int i>
  __device__ __forceinline__ void set(unsigned char unit) {
    words[i / 4] |= static_cast<unsigned>(unit) << i % 4 * 8;
  }
  template <int i>
  __device__ __forceinline__ void set(unsigned short unit) {
    words[i / 2] |= static_cast<unsigned>(unit) << i % 2 * 16;
  }
  template <int i>
  __device__ __forceinline__ void set(unsigned unit) {
    words[i] = unit;
  }
  template <int i>
  __device__ __forceinline__ void set(uint2 unit) {
    words[2 * i] = unit.x;
    words[2 * i + 1] = unit.y;
  }
  template <int i>
  __device__ __forceinline__ void set(uint4 unit) {
    words[0] = unit.x, words[1] = unit.y, words[2] = unit.z, words[3] = unit.w;
  }
  __device__ __forceinline__ uint4 bits() const { return make_uint4(words[0], words[1], words[2], words[3]); }
};

// Goes through the units of some pixels in turn.
struct Cursor {
  const unsigned short* sources;
  int pixel, unit, units;

  __device__ __forceinline__ int next() {
    const int source = pixel + sources[unit];
    if (++unit == units) {
      unit = 0;
      pixel += units;
    }
    return source;
  }
};

template <typename Unit, int i = 0>
__device__ __forceinline__ void gather(Vector& vector, const Unit* tile, Cursor& cursor) {
  if constexpr (i < vector_of<Unit>) {
    vector.set<i>(tile[cursor.next()]);
    gather<Unit, i + 1>(vector, tile, cursor);
  }
}

// A block takes `together` pixels, whole vectors but for the last block. Dynamic shared memory: the tile, then for every
// unit of a pixel the unit that goes there.
template <typename Unit>
__global__ void __launch_bounds__(threads)
    channel_shuffle_tiles(const Unit* __restrict__ input, Unit* __restrict__ output, Shape shape, int together,
                          const __grid_constant__ Order order) {
  PARTNAS_DYNAMIC_SHARED(uint4, tile);
  constexpr int each = vector_of<Unit>;
  const int units = shape.runs * shape.units, thread = static_cast<int>(threadIdx.x);
  auto* const sources = reinterpret_cast<unsigned short*>(tile + ceil_div(together * units, each));
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * together;
  const int64_t left = shape.pixels - begin;
  const int total = static_cast<int>(left < together ? left : together) * units, vectors = total / each;
  const Unit* from = input + begin * units;
  Unit* to = output + begin * units;

  for (int i = thread; i < vectors; i += threads) copy_async_16(tile + i, from + i * each);
  copy_async_commit();
  auto* const pixels = reinterpret_cast<Unit*>(tile);
  for (int i = vectors * each + thread; i < total; i += threads) pixels[i] = from[i];
  for (int i = thread; i < units; i += threads)
    sources[i] = static_cast<unsigned short>(source_of(i / shape.units, shape, order) * shape.units + i % shape.units);
  copy_async_wait<0>();
  __syncthreads();

  for (int i = thread; i < vectors; i += threads) {
    const int first = i * each;
    Cursor cursor{sources, first / units * units, first % units, units};
    Vector vector;
    gather(vector, pixels, cursor);
    store_vector(to + first, vector.bits());
  }
  for (int i = vectors * each + thread; i < total; i += threads) to[i] = pixels[i / units * units + sources[i % units]];
}

template <typename Unit>
Status move_units(const Unit* input, Unit* output, Shape shape, const int64_t* order, Stream stream) {
  // Groups are worked out, however many runs there are.
  const int step = shape.groups ? shape.runs : order_length;
  for (int first = 0; first < shape.runs; first += step) {
    shape.first = first;
    shape.count = std::min(step, shape.runs - first);
    Order some{};
    if (!shape.groups) std::copy(order + first, order + first + shape.count, some.run);
    const int64_t blocks = ceil_div(shape.pixels * shape.count * shape.units, threads * units_each);
    if (blocks > INT_MAX) return invalid_value;
    const Status status = PARTNAS_LAUNCH(channel_shuffle_units<Unit>, dim3(static_cast<unsigned>(blocks)), dim3(threads),
                                         0, stream, input, output, shape, some);
    if (status != success) return status;
  }
  return success;
}

template <typename Unit>
Status move_tiles(const Unit* input, Unit* output, const Shape& shape, int together, const int64_t* order,
                  Stream stream) {
  Order all{};
  if (!shape.groups) std::copy(order, order + shape.runs, all.run);
  const int units = shape.runs * shape.units;
  const int bytes = ceil_div(together * units, vector_of<Unit>) * 16 + units * static_cast<int>(sizeof(unsigned short));
  const int64_t blocks = ceil_div(shape.pixels, together);
  if (blocks > INT_MAX) return invalid_value;
  return PARTNAS_LAUNCH(channel_shuffle_tiles<Unit>, dim3(static_cast<unsigned>(blocks)), dim3(threads),
                        static_cast<size_t>(bytes), stream, input, output, shape, together, all);
}

// Pixels of a tile, so many that tiles are whole vectors; 0 where there is no such tile.
int pixels_together(const void* input, const void* output, int64_t pixel_bytes, int64_t unit) {
  if (!is_aligned(input) || !is_aligned(output)) return 0;
  const int64_t step = 16 / std::gcd<int64_t>(16, pixel_bytes);
  if (step * pixel_bytes > most_tile_bytes) return 0;
  if (most_tile_bytes + pixel_bytes / unit * static_cast<int64_t>(sizeof(unsigned short)) > most_dynamic_bytes) return 0;
  return static_cast<int>(most_tile_bytes / (step * pixel_bytes) * step);
}

int64_t unit_of(const void* input, const void* output, int64_t run_bytes) {
  int64_t unit = 16;
  while (run_bytes % unit || reinterpret_cast<uintptr_t>(input) % unit || reinterpret_cast<uintptr_t>(output) % unit)
    unit /= 2;
  return unit;
}

}  // namespace

bool channel_shuffle_fits(const void* input, const void* output, int64_t runs, int64_t run_bytes) {
  constexpr int64_t most = INT_MAX - threads * units_each;
  return runs <= most && run_bytes / unit_of(input, output, run_bytes) <= most;
}

Status channel_shuffle(const void* input, void* output, int64_t pixels, int64_t runs, int64_t run_bytes, int64_t groups,
                       const int64_t* order, Stream stream) {
  if (pixels * runs * run_bytes == 0) return success;
  if (!channel_shuffle_fits(input, output, runs, run_bytes)) return invalid_value;
  const int64_t unit = unit_of(input, output, run_bytes);
  const Shape shape{pixels, static_cast<int>(runs), static_cast<int>(run_bytes / unit), 0, static_cast<int>(runs),
                    static_cast<int>(groups)};
  const bool whole_runs = unit == 16 && run_bytes >= long_run;
  const int together =
      whole_runs || (!groups && runs > order_length) ? 0 : pixels_together(input, output, runs * run_bytes, unit);
  const auto move = [&](auto type) {
    using Unit = decltype(type);
    const auto* from = static_cast<const Unit*>(input);
    auto* to = static_cast<Unit*>(output);
    return together ? move_tiles(from, to, shape, together, order, stream) : move_units(from, to, shape, order, stream);
  };
  switch (unit) {
    case 16: return move(uint4());
    case 8: return move(uint2());
    case 4: return move(0u);
    case 2: return move(static_cast<unsigned short>(0));
    default: return move(static_cast<unsigned char>(0));
  }
}

Facts channel_shuffle_facts() {
  return {{"channel_shuffle_units<.*>", threads, 0, 32},
          {"channel_shuffle_tiles<.*>", threads, most_tile_bytes + order_length * 2, 24}};
}

}  // namespace partnas::cuda
