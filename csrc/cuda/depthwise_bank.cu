// All depthwise filters of one source in one read of it.
//
// A warp's 32 lanes are channels of one pixel; where there are fewer channels, the lanes are shared out among several
// tiles. A thread takes squares of 4 x 4 pixels, so that a value that is loaded serves many taps.
//
// Forward. A block walks down a band of rows. Fresh rows of the source arrive by cp.async while the filters run, pass
// once through the prologue into a ring of float rows in shared memory, and all filters read them there. For a filter
// of dilation 2 at stride 1 a square is taken from every second pixel: on those it is a filter of dilation 1.
//
// Backward. A block goes through tiles of the source. What belongs to a tile is read in turn, each while the one before
// is computed on: the values, which need no border, then the gradient of each map with the border that its filter
// reaches. Each gradient in a thread's hands meets its square of values for the weights and the taps for the source,
// whose sums stay in registers until the last filter. Sums over pixels are taken per thread, over the block's warps in
// shared memory, and over the blocks, in a fixed order, by a second kernel.
#include "cuda/depthwise_bank.h"

#include <algorithm>
#include <vector>

#include "common/launch.cuh"

namespace partnas::cuda {
namespace {

constexpr int side = 4;
constexpr int lanes_bytes = warp_size * static_cast<int>(sizeof(float));
constexpr int most_forward = 8, most_backward = 16;  // filters of a launch
constexpr int most_forward_threads = 256, most_backward_threads = 512;
constexpr int loads_ahead = 4;
constexpr int number_rows = 4;
constexpr int sum_rows = 2;  // of the gradient, and of its product with the normalised source

// How a map is cut into tiles and its channels into chunks: a block has `groups` tiles at a time, of `lanes` channels.
struct Tiles {
  int lanes, groups, chunks;
  int rows, columns, down, across;
  int count, sets;
};

struct Prologue {
  const float *statistics, *scale, *shift;
  float eps;
  bool relu;
};

struct Sizes {
  int channels, height, width, output_height, output_width;
};

// --- both ways -------------------------------------------------------------------------------------------------------

// What a lane works on: a channel of a tile that begins there.
struct Place {
  int64_t image;
  int row, column, channel;
  bool inside;
};

__device__ __forceinline__ Place place(const Tiles& tiles, int channels, int set, int chunk, int lane) {
  Place result;
  const int group = lane / tiles.lanes, tile = set * tiles.groups + group;
  const int line = tile / tiles.across, image = line / tiles.down;
  result.image = image;
  result.row = (line - image * tiles.down) * tiles.rows;
  result.column = (tile - line * tiles.across) * tiles.columns;
  result.channel = chunk * tiles.lanes + lane % tiles.lanes;
  result.inside = group < tiles.groups && tile < tiles.count && result.channel < channels;
  return result;
}

// value = clip((x - mean) * factor + offset)
struct Numbers {
  float mean, rstd, factor, offset;

  __device__ __forceinline__ Numbers(const Prologue& prologue, int channels, int channel) {
    const bool normed = channel < channels && prologue.statistics, affine = channel < channels && prologue.scale;
    mean = normed ? prologue.statistics[channel] : 0.0f;
    rstd = normed ? 1.0f / sqrtf(prologue.statistics[channels + channel] + prologue.eps) : 1.0f;
    factor = affine ? rstd * prologue.scale[channel] : rstd;
    offset = affine ? prologue.shift[channel] : 0.0f;
  }
};

// The same for all lanes: [number_rows][lanes] in shared memory, in that order.
__device__ __forceinline__ void keep_numbers(const Prologue& prologue, const Tiles& tiles, int channels, int chunk,
                                             float* numbers) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane >= warp_size) return;
  const Numbers number(prologue, channels, chunk * tiles.lanes + lane % tiles.lanes);
  numbers[lane] = number.mean;
  numbers[warp_size + lane] = number.rstd;
  numbers[2 * warp_size + lane] = number.factor;
  numbers[3 * warp_size + lane] = number.offset;
}

// NaN stays.
__device__ __forceinline__ float clip(float value) { return value < 0.0f ? 0.0f : value; }

// The pixels of a tile that a thread copies: every `step`th from `first`, `columns` to a row.
struct Walk {
  int row, column, columns, step_rows, step_columns;

  __device__ __forceinline__ Walk(int first, int step, int width)
      : row(first / width),
        column(first % width),
        columns(width),
        step_rows(step / width),
        step_columns(step % width) {}

  __device__ __forceinline__ void next() {
    row += step_rows;
    column += step_columns;
    if (column >= columns) {
      column -= columns;
      ++row;
    }
  }
};

// The weights of a chunk's channels, as they lie in memory: [lanes][size * size].
__device__ __forceinline__ void copy_weights(const Tiles& tiles, int channels, int chunk, const float* from, int area,
                                             float* to) {
  const int first = chunk * tiles.lanes, there = min(tiles.lanes, channels - first) * area;
  for (int i = static_cast<int>(threadIdx.x); i < tiles.lanes * area; i += static_cast<int>(blockDim.x))
    to[i] = i < there ? __ldg(from + static_cast<int64_t>(first) * area + i) : 0.0f;
}

// --- forward ---------------------------------------------------------------------------------------------------------

struct ForwardFilter {
  const float* weight;
  void* map;
  int size, dilation, first_tap;
};

// A band has tiles.rows rows of the maps, of which `step` are made at a time. The ring has `ring` rows of `columns`
// pixels of the source, `fresh` of which are new each time.
struct ForwardBank {
  const void* x;
  Prologue prologue;
  Sizes sizes;
  Tiles tiles;
  int reach, step, columns, ring, fresh;
  bool vectors, staged;
  int count;
  ForwardFilter filters[most_forward];
};

// Where a thread's share of the fresh rows comes from.
template <typename T>
struct Source {
  const T* from;  // its first channel; null where there is none
  int top, left, lane;
  Walk walk;
};

// From memory that is shared, or that this kernel writes.
template <typename T, int width>
__device__ __forceinline__ Pack<T, width> read(const T* from) {
  return {*reinterpret_cast<const decltype(Pack<T, width>::raw)*>(from)};
}

__device__ __forceinline__ bool lies_inside(const Sizes& sizes, int y, int x) {
  return y >= 0 && y < sizes.height && x >= 0 && x < sizes.width;
}

__device__ __forceinline__ int64_t source_offset(const Sizes& sizes, int y, int x) {
  return (static_cast<int64_t>(y) * sizes.width + x) * sizes.channels;
}

// Starts the copies of `bank.fresh` rows, from row `begin` of the band on.
template <typename T>
__device__ __forceinline__ void start_rows(const ForwardBank& bank, const Source<T>& source, int begin, T* staging) {
  for (Walk walk = source.walk; walk.row < bank.fresh; walk.next()) {
    const int y = source.top + begin + walk.row, x = source.left + walk.column;
    const bool inside = source.from && lies_inside(bank.sizes, y, x);
    copy_async_16(staging + (walk.row * bank.columns + walk.column) * warp_size + source.lane,
                  inside ? source.from + source_offset(bank.sizes, y, x) : bank.x, inside);
  }
  copy_async_commit();
}

// Takes `count` rows, from row `begin` of the band on, which goes to `slot`, through the prologue into the ring.
template <int width, bool staged, typename T>
__device__ __forceinline__ void take_rows(const ForwardBank& bank, const Source<T>& source, const T* staging,
                                          const float* numbers, int begin, int count, int slot, float* ring) {
  constexpr int ahead = staged ? 1 : loads_ahead;
  const bool affine = bank.prologue.statistics || bank.prologue.scale;
  Walk walk = source.walk;
  while (walk.row < count) {
    Pack<T, width> raw[ahead];
    int to[ahead];
    bool inside[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int y = source.top + begin + walk.row, x = source.left + walk.column;
      const bool there = walk.row < count;
      inside[i] = there && source.from && lies_inside(bank.sizes, y, x);
      if (inside[i]) {
        if constexpr (staged)
          raw[i] = read<T, width>(staging + (walk.row * bank.columns + walk.column) * warp_size + source.lane);
        else
          raw[i] = Pack<T, width>::from(source.from + source_offset(bank.sizes, y, x));
      }
      const int row = slot + walk.row < bank.ring ? slot + walk.row : slot + walk.row - bank.ring;
      to[i] = there ? (row * bank.columns + walk.column) * warp_size + source.lane : -1;
      walk.next();
    }
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      if (to[i] < 0) continue;
      float values[width] = {};
      if (inside[i]) {
        raw[i].get(values);
#pragma unroll
        for (int k = 0; k < width; ++k) {
          if (affine) {
            const float* own = numbers + source.lane + k;
            values[k] = fmaf(values[k] - own[0], own[2 * warp_size], own[3 * warp_size]);
          }
          if (bank.prologue.relu) values[k] = clip(values[k]);
        }
      }
      if constexpr (width == 1) {
        ring[to[i]] = values[0];
      } else {
#pragma unroll
        for (int k = 0; k < width; k += 4)
          *reinterpret_cast<float4*>(ring + to[i] + k) =
              make_float4(values[k], values[k + 1], values[k + 2], values[k + 3]);
      }
    }
  }
}

// One square of a map. Neighbours in it lie `ratio` * `unit` pixels of the source apart, taps `unit`; its first tap
// meets `ring`, in row `slot`.
template <int size, int unit, int ratio>
__device__ __forceinline__ void filter_square(const float* ring, int rows, int pitch, int slot, const float* weights,
                                              float (&sum)[side][side]) {
  constexpr int reads = (side - 1) * ratio + size;
  float tap[size * size];
#pragma unroll
  for (int t = 0; t < size * size; ++t) tap[t] = weights[t];
#pragma unroll
  for (int r = 0; r < reads; ++r) {
    const int row = slot + r * unit < rows ? slot + r * unit : slot + r * unit - rows;
    const float* from = ring + row * pitch;
    float line[reads];
#pragma unroll
    for (int q = 0; q < reads; ++q) line[q] = from[q * unit * warp_size];
#pragma unroll
    for (int v = 0; v < side; ++v) {
      const int i = r - v * ratio;
      if (i < 0 || i >= size) continue;
#pragma unroll
      for (int p = 0; p < side; ++p)
#pragma unroll
        for (int j = 0; j < size; ++j) sum[v][p] = fmaf(tap[i * size + j], line[p * ratio + j], sum[v][p]);
    }
  }
}

template <typename T, int stride>
__global__ void __launch_bounds__(most_forward_threads, 2) bank_forward(const __grid_constant__ ForwardBank bank) {
  PARTNAS_DYNAMIC_SHARED(float, ring);
  const Tiles& tiles = bank.tiles;
  const Sizes& sizes = bank.sizes;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % warp_size, warp = thread / warp_size, warps = threads / warp_size;
  const int pitch = bank.columns * warp_size;
  T* const staging = reinterpret_cast<T*>(ring + bank.ring * pitch);
  float* const numbers = reinterpret_cast<float*>(staging + (bank.staged ? bank.fresh * pitch : 0));
  float* const weights = numbers + number_rows * warp_size;

  const int chunk = static_cast<int>(blockIdx.x) % tiles.chunks, set = static_cast<int>(blockIdx.x) / tiles.chunks;
  const int width = bank.vectors ? vector_of<T> : 1;
  const int share = warp_size / width;
  const Place own = place(tiles, sizes.channels, set, chunk, thread % share * width);
  const Source<T> source{
      own.inside ? static_cast<const T*>(bank.x) + own.image * source_offset(sizes, sizes.height, 0) + own.channel
                 : nullptr,
      own.row * stride - bank.reach, own.column * stride - bank.reach, thread % share * width,
      Walk(thread / share, threads / share, bank.columns)};
  const int border = bank.ring - bank.fresh;

  if (bank.staged) start_rows(bank, source, border, staging);
  const Place at = place(tiles, sizes.channels, set, chunk, lane);
  keep_numbers(bank.prologue, tiles, sizes.channels, chunk, numbers);
  for (int f = 0; f < bank.count; ++f)
    copy_weights(tiles, sizes.channels, chunk, bank.filters[f].weight, bank.filters[f].size * bank.filters[f].size,
                 weights + bank.filters[f].first_tap * tiles.lanes);
  __syncthreads();
  const int across = tiles.columns / side, squares = across * (bank.step / side);
  const int64_t row_step = static_cast<int64_t>(sizes.output_width) * sizes.channels;
  const int last_row = min(at.row + tiles.rows, sizes.output_height);
  int head = 0;  // slot of the first row that this step reads
  for (int first = 0; first < tiles.rows; first += bank.step) {
    const int begin = border + first * stride;
    const int slot = head + border < bank.ring ? head + border : head + border - bank.ring;
    // Without a stage: the whole ring the first time, then the fresh rows. With one: what came before the fresh rows.
    const int direct = first > 0 ? (bank.staged ? 0 : bank.fresh) : (bank.staged ? border : bank.ring);
    const int direct_begin = first > 0 ? begin : 0, direct_slot = first > 0 ? slot : 0;
    if (bank.vectors)
      take_rows<vector_of<T>, false>(bank, source, staging, numbers, direct_begin, direct, direct_slot, ring);
    else
      take_rows<1, false>(bank, source, staging, numbers, direct_begin, direct, direct_slot, ring);
    if (bank.staged) {
      copy_async_wait<0>();
      take_rows<vector_of<T>, true>(bank, source, staging, numbers, begin, bank.fresh, slot, ring);
      if (first + bank.step < tiles.rows) start_rows(bank, source, begin + bank.fresh, staging);
    }
    __syncthreads();
    for (int work = warp; work < bank.count * squares; work += warps) {
      const ForwardFilter& filter = bank.filters[work / squares];
      const int square = work % squares, down = square / across, right = square % across;
      const bool every_second = stride == 1 && filter.dilation == 2;
      const int apart = every_second ? 2 : 1;
      const int row = every_second ? down / 2 * 2 * side + down % 2 : down * side;
      const int column = every_second ? right / 2 * 2 * side + right % 2 : right * side;
      const int y = at.row + first + row, x = at.column + column;
      if (!__any_sync(all_lanes, at.inside && y < last_row && x < sizes.output_width)) continue;

      const int before = bank.reach - filter.dilation * (filter.size / 2);
      const int wrapped = head + row * stride + before;
      const int top = wrapped < bank.ring ? wrapped : wrapped - bank.ring;
      const float* from = ring + (column * stride + before) * warp_size + lane;
      const float* taps =
          weights + filter.first_tap * tiles.lanes + lane % tiles.lanes * filter.size * filter.size;
      float sum[side][side] = {};
      if (filter.size == 3) {
        if (filter.dilation == 1)
          filter_square<3, 1, stride>(from, bank.ring, pitch, top, taps, sum);
        else
          filter_square<3, 2, 1>(from, bank.ring, pitch, top, taps, sum);
      } else {
        if (filter.dilation == 1)
          filter_square<5, 1, stride>(from, bank.ring, pitch, top, taps, sum);
        else
          filter_square<5, 2, 1>(from, bank.ring, pitch, top, taps, sum);
      }
      if (!at.inside) continue;
      T* to = static_cast<T*>(filter.map) +
              ((at.image * sizes.output_height + y) * sizes.output_width + x) * sizes.channels + at.channel;
#pragma unroll
      for (int v = 0; v < side; ++v, to += apart * row_step) {
        if (y + v * apart >= last_row) break;
#pragma unroll
        for (int p = 0; p < side; ++p)
          if (x + p * apart < sizes.output_width)
            to[static_cast<int64_t>(p * apart) * sizes.channels] = from_float<T>(sum[v][p]);
      }
    }
    __syncthreads();
    head = head + bank.fresh < bank.ring ? head + bank.fresh : head + bank.fresh - bank.ring;
  }
}

// --- backward --------------------------------------------------------------------------------------------------------

// row: of its first tap in the sums, negative where the weight needs no gradient.
struct BackwardFilter {
  const float* weight;
  const void* gradient;
  int size, dilation, first_tap, row;
};

// Blocks: `parts` for each chunk, that share its sets of tiles. Each leaves `rows` rows of sums over its pixels,
// [lanes]: those of the weights and, after them, of the gradient and of its product with the normalised source.
struct BackwardBank {
  const void* x;
  void* gradient;                         // null where nobody asked for it
  const float* before;                    // what other launches have added up, for the last one to finish
  float* unfinished;                      // or where to leave it for the next
  float* partial;
  Prologue prologue;
  Sizes sizes;
  Tiles tiles;
  int parts, buffer_bytes, rows;
  bool ahead;  // there are two buffers, and one is filled while the other is computed on
  bool vectors, needs_value, needs_sums, scaled;
  int count;
  BackwardFilter filters[most_backward];
};

// How far the gradient of a map is read beyond a tile of the source, in pixels of the map.
constexpr __host__ __device__ int border_before(int reach, int stride) { return reach / stride; }
constexpr __host__ __device__ int border_after(int reach, int stride) { return (reach + stride - 1) / stride; }

// Starts the copy of a tile and its border, [rows][columns][lanes], with zeros where the map ends.
template <typename T>
__device__ __forceinline__ void start_tile(const BackwardBank& bank, const T* map, const Place& own, int lane, int top,
                                           int left, int rows, int columns, int height, int width, T* to) {
  const int channels = bank.sizes.channels, share = warp_size / (bank.vectors ? vector_of<T> : 1);
  const T* from = map + own.image * height * width * channels + own.channel;
  const int thread = static_cast<int>(threadIdx.x);
  for (Walk walk(thread / share, static_cast<int>(blockDim.x) / share, columns); walk.row < rows; walk.next()) {
    const int y = top + walk.row, x = left + walk.column;
    const bool inside = own.inside && y >= 0 && y < height && x >= 0 && x < width;
    const T* pixel = inside ? from + (static_cast<int64_t>(y) * width + x) * channels : map;
    T* target = to + (walk.row * columns + walk.column) * warp_size + lane;
    if (bank.vectors)
      copy_async_16(target, pixel, inside);
    else
      *target = inside ? *pixel : from_float<T>(0.0f);
  }
}

// Row `r` of the gradients around a square meets the square: its values, for the weights, or the taps, for the source.
template <int size, int dilation, int stride, bool for_weight, int reads>
__device__ __forceinline__ void meet(int r, const float (&line)[reads], const float (&values)[side][side],
                                     const float (&tap)[size * size], float (&sum)[side][side],
                                     float (&weight_sum)[size * size]) {
  constexpr int reach = size / 2 * dilation, before = border_before(reach, stride);
#pragma unroll
  for (int v = 0; v < side; ++v)
#pragma unroll
    for (int i = 0; i < size; ++i) {
      if (v + reach - i * dilation != stride * (r - before)) continue;
#pragma unroll
      for (int p = 0; p < side; ++p)
#pragma unroll
        for (int j = 0; j < size; ++j) {
          const int q = p + reach - j * dilation + stride * before, t = i * size + j;
          if (q % stride != 0) continue;
          if constexpr (for_weight)
            weight_sum[t] = fmaf(values[v][p], line[q / stride], weight_sum[t]);
          else
            sum[v][p] = fmaf(tap[t], line[q / stride], sum[v][p]);
        }
    }
}

// What the gradient of a map gives to a square of the source, `sum`, and, from the square's values, to the weights.
template <int size, int dilation, int stride, typename T>
__device__ __forceinline__ void filter_square_backward(const T* gradient, int pitch, const float* weights,
                                                       const float (&values)[side][side], bool needs_weight,
                                                       float (&sum)[side][side], float (&weight_sum)[size * size]) {
  constexpr int reach = size / 2 * dilation, before = border_before(reach, stride);
  constexpr int reads = side / stride + before + border_after(reach, stride);
  float tap[size * size];
#pragma unroll
  for (int t = 0; t < size * size; ++t) tap[t] = weights[t];
#pragma unroll
  for (int r = 0; r < reads; ++r) {
    float line[reads];
#pragma unroll
    for (int q = 0; q < reads; ++q) line[q] = to_float(gradient[r * pitch + q * warp_size]);
    meet<size, dilation, stride, false>(r, line, values, tap, sum, weight_sum);
    if (needs_weight) meet<size, dilation, stride, true>(r, line, values, tap, sum, weight_sum);
  }
}

// Adds the sums of all warps to the block's, [count][lanes]. `memory` may be written once all have come here.
template <int count>
__device__ __forceinline__ void add_up(const float (&sums)[count], float* memory, float* totals) {
  constexpr int most = (count + 1) / 2;  // two rounds, for the memory's sake
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % warp_size, warp = thread / warp_size, warps = threads / warp_size;
#pragma unroll
  for (int first = 0; first < count; first += most) {
    const int here = first + most < count ? most : count - first;
    __syncthreads();
#pragma unroll
    for (int t = 0; t < most; ++t)
      if (first + t < count) memory[(warp * most + t) * warp_size + lane] = sums[first + t];
    __syncthreads();
    for (int i = thread; i < here * warp_size; i += threads) {
      float total = 0.0f;
      for (int w = 0; w < warps; ++w) total += memory[w * most * warp_size + i];
      totals[first * warp_size + i] += total;
    }
  }
}

template <int size, int dilation, int stride, typename T>
__device__ __forceinline__ void apply_backward(const BackwardFilter& filter, const T* gradient, int pitch,
                                               const float* weights, const float (&values)[side][side],
                                               float (&sum)[side][side], float* memory, float* totals) {
  float weight_sum[size * size] = {};
  filter_square_backward<size, dilation, stride>(gradient, pitch, weights, values, filter.row >= 0, sum, weight_sum);
  if (filter.row >= 0) add_up(weight_sum, memory, totals + filter.row * warp_size);
}

// Starts the copy of what is read in turn `f` of a set of tiles: the source for -1, then each map's gradient.
template <typename T, int stride>
__device__ __forceinline__ void start_turn(const BackwardBank& bank, int set, int f, char* to) {
  const Tiles& tiles = bank.tiles;
  const Sizes& sizes = bank.sizes;
  const int share = warp_size / (bank.vectors ? vector_of<T> : 1);
  const int lane = static_cast<int>(threadIdx.x) % share * (warp_size / share);
  const Place own = place(tiles, sizes.channels, set, static_cast<int>(blockIdx.x) % tiles.chunks, lane);
  const void* map = bank.x;
  int top = own.row, left = own.column, rows = tiles.rows, columns = tiles.columns;
  int height = sizes.height, width = sizes.width;
  if (f >= 0) {
    const BackwardFilter& filter = bank.filters[f];
    const int reach = filter.size / 2 * filter.dilation;
    const int before = border_before(reach, stride), border = before + border_after(reach, stride);
    map = filter.gradient;
    top = top / stride - before;
    left = left / stride - before;
    rows = rows / stride + border;
    columns = columns / stride + border;
    height = sizes.output_height;
    width = sizes.output_width;
  }
  start_tile(bank, static_cast<const T*>(map), own, lane, top, left, rows, columns, height, width,
             reinterpret_cast<T*>(to));
}

template <typename T, int stride>
__global__ void __launch_bounds__(most_backward_threads, 1) bank_backward(const __grid_constant__ BackwardBank bank) {
  PARTNAS_DYNAMIC_SHARED(char, memory);
  const Tiles& tiles = bank.tiles;
  const Sizes& sizes = bank.sizes;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % warp_size, warp = thread / warp_size;
  float* const totals = reinterpret_cast<float*>(memory + (bank.ahead ? 2 : 1) * bank.buffer_bytes);
  float* const numbers = totals + bank.rows * warp_size;
  float* const weights = numbers + number_rows * warp_size;

  const int chunk = static_cast<int>(blockIdx.x) % tiles.chunks, part = static_cast<int>(blockIdx.x) / tiles.chunks;
  const int begin = static_cast<int>(static_cast<int64_t>(tiles.sets) * part / bank.parts);
  const int end = static_cast<int>(static_cast<int64_t>(tiles.sets) * (part + 1) / bank.parts);

  keep_numbers(bank.prologue, tiles, sizes.channels, chunk, numbers);
  for (int f = 0; f < bank.count; ++f)
    copy_weights(tiles, sizes.channels, chunk, bank.filters[f].weight, bank.filters[f].size * bank.filters[f].size,
                 weights + bank.filters[f].first_tap * tiles.lanes);
  for (int i = thread; i < bank.rows * warp_size; i += threads) totals[i] = 0.0f;

  const int across = tiles.columns / side;
  const int row = warp / across * side, column = warp % across * side;  // of this warp's square in the tile
  float values[side][side] = {}, sum[side][side] = {}, gradient_sum[sum_rows] = {};
  // Begins with the turn before the first, which has nothing but the next one's copies to start.
  for (int set = begin - 1, f = bank.count - 1, buffer = 0; set < end; buffer ^= bank.ahead) {
    const bool last = f == bank.count - 1;
    const int next_set = last ? set + 1 : set, next_f = last ? -1 : f + 1;
    const int copied_set = bank.ahead ? next_set : set;
    if (copied_set >= begin && copied_set < end)
      start_turn<T, stride>(bank, copied_set, bank.ahead ? next_f : f,
                            memory + (buffer ^ static_cast<int>(bank.ahead)) * bank.buffer_bytes);
    copy_async_commit();
    if (bank.ahead)
      copy_async_wait<1>();
    else
      copy_async_wait<0>();
    __syncthreads();
    char* const here = memory + buffer * bank.buffer_bytes;
    const T* const tile = reinterpret_cast<const T*>(here) + lane;
    if (set >= begin && f >= 0) {
      const BackwardFilter& filter = bank.filters[f];
      const int reach = filter.size / 2 * filter.dilation;
      const int pitch =
          (tiles.columns / stride + border_before(reach, stride) + border_after(reach, stride)) * warp_size;
      const T* const from = tile + row / stride * pitch + column / stride * warp_size;
      const float* taps = weights + filter.first_tap * tiles.lanes + lane % tiles.lanes * filter.size * filter.size;
      float* const scratch = reinterpret_cast<float*>(here);
      if (filter.size == 3) {
        if (filter.dilation == 1)
          apply_backward<3, 1, stride>(filter, from, pitch, taps, values, sum, scratch, totals);
        else
          apply_backward<3, 2, stride>(filter, from, pitch, taps, values, sum, scratch, totals);
      } else {
        if (filter.dilation == 1)
          apply_backward<5, 1, stride>(filter, from, pitch, taps, values, sum, scratch, totals);
        else
          apply_backward<5, 2, stride>(filter, from, pitch, taps, values, sum, scratch, totals);
      }
    }
    if (set >= begin && (f < 0 || (last && bank.needs_value))) {
      const Place at = place(tiles, sizes.channels, set, chunk, lane);
      const int rows = at.inside ? sizes.height - at.row - row : 0, columns = sizes.width - at.column - column;
      const int64_t line = static_cast<int64_t>(sizes.width) * sizes.channels;
      const int64_t first = (at.image * sizes.height + at.row + row) * line +
                            static_cast<int64_t>(at.column + column) * sizes.channels + at.channel;
      const float mean = numbers[lane], factor = numbers[2 * warp_size + lane];
      if (f < 0) {
        const float offset = numbers[3 * warp_size + lane];
#pragma unroll
        for (int v = 0; v < side; ++v)
#pragma unroll
          for (int p = 0; p < side; ++p) {
            const bool inside = v < rows && p < columns;
            const float x = to_float(tile[((row + v) * tiles.columns + column + p) * warp_size]);
            const float value = fmaf(x - mean, factor, offset);
            values[v][p] = !inside ? 0.0f : bank.prologue.relu ? clip(value) : value;
            sum[v][p] = inside && bank.before ? bank.before[first + v * line + p * sizes.channels] : 0.0f;
          }
      } else {
#pragma unroll
        for (int v = 0; v < side; ++v)
#pragma unroll
          for (int p = 0; p < side; ++p) {
            if (v >= rows || p >= columns) continue;
            const int64_t pixel = first + v * line + static_cast<int64_t>(p) * sizes.channels;
            if (bank.unfinished) {
              bank.unfinished[pixel] = sum[v][p];
              continue;
            }
            float gradient = bank.prologue.relu && values[v][p] <= 0.0f ? 0.0f : sum[v][p];
            if (bank.needs_sums) {
              // Without an affine map the value is the normalised source wherever its gradient is not zero.
              float normalised = values[v][p];
              if (bank.prologue.scale)
                normalised = (to_float(static_cast<const T*>(bank.x)[pixel]) - mean) * numbers[warp_size + lane];
              gradient_sum[0] += gradient;
              gradient_sum[1] = fmaf(gradient, normalised, gradient_sum[1]);
            }
            if (bank.scaled) gradient *= factor;
            if (bank.gradient) static_cast<T*>(bank.gradient)[pixel] = from_float<T>(gradient);
          }
      }
    }
    __syncthreads();
    set = next_set;
    f = next_f;
  }
  if (bank.needs_sums)
    add_up(gradient_sum, reinterpret_cast<float*>(memory), totals + (bank.rows - sum_rows) * warp_size);
  __syncthreads();
  float* const to = bank.partial + static_cast<int64_t>(blockIdx.x) * bank.rows * warp_size;
  for (int i = thread; i < bank.rows * warp_size; i += threads) to[i] = totals[i];
}

// --- sums over all blocks --------------------------------------------------------------------------------------------

constexpr int finish_threads = 512;

struct FinishedRows {
  float* to;  // [C][area], null where nobody asked for it
  int first_row, area;
};

struct Finish {
  const float* partial;  // [parts][chunks][rows][lanes]
  Prologue prologue;
  int channels, lanes, groups, chunks, parts, rows, count;
  bool sums;
  float *scale_gradient, *shift_gradient;
  float *means, *slopes;  // [C]; null where they are not needed
  double pixels;
  FinishedRows weights[most_backward];
};

// One row of one chunk.
__global__ void __launch_bounds__(finish_threads) bank_finish(const __grid_constant__ Finish finish) {
  constexpr int warps = finish_threads / warp_size;
  PARTNAS_SHARED double sums[warps][warp_size];
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const int row = static_cast<int>(blockIdx.x) % finish.rows, chunk = static_cast<int>(blockIdx.x) / finish.rows;
  const int64_t step = static_cast<int64_t>(finish.chunks) * finish.rows * warp_size;
  const float* from = finish.partial + (static_cast<int64_t>(chunk) * finish.rows + row) * warp_size + lane;
  double sum = 0;
#pragma unroll 8
  for (int part = warp; part < finish.parts; part += warps) sum += static_cast<double>(__ldg(from + part * step));
  sums[warp][lane] = sum;
  __syncthreads();
  const int channel = chunk * finish.lanes + lane;
  if (warp > 0 || lane >= finish.lanes || channel >= finish.channels) return;
  double total = 0;
  for (int group = 0; group < finish.groups; ++group)
    for (int w = 0; w < warps; ++w) total += sums[w][group * finish.lanes + lane];

  if (finish.sums && row >= finish.rows - sum_rows) {
    const bool product = row == finish.rows - 1;
    float* const affine = product ? finish.scale_gradient : finish.shift_gradient;
    if (affine) affine[channel] = static_cast<float>(total);
    if (!finish.means) return;
    const double mean = total / finish.pixels;
    if (product)
      finish.slopes[channel] = static_cast<float>(
          mean / sqrt(static_cast<double>(finish.prologue.statistics[finish.channels + channel]) +
                      static_cast<double>(finish.prologue.eps)));
    else
      finish.means[channel] = static_cast<float>(mean);
    return;
  }
  for (int f = 0; f < finish.count; ++f) {
    const FinishedRows& weight = finish.weights[f];
    const int tap = row - weight.first_row;
    if (weight.to && tap >= 0 && tap < weight.area)
      weight.to[static_cast<int64_t>(channel) * weight.area + tap] = static_cast<float>(total);
  }
}

// --- batch norm's backward through its statistics --------------------------------------------------------------------

constexpr int normalise_threads = 256;

struct Normalise {
  const void* x;
  void* gradient;  // of the value before the clip, and in its place that of x
  Prologue prologue;
  const float *means, *slopes;
  int64_t pixels;
  int channels, vectors, per_block;  // vectors of a pixel, in all and in a block
};

template <typename T, int width>
__global__ void __launch_bounds__(normalise_threads) bank_normalise(const __grid_constant__ Normalise norm) {
  const int thread = static_cast<int>(threadIdx.x), together = normalise_threads / norm.per_block;
  const int vector = static_cast<int>(blockIdx.y) * norm.per_block + thread % norm.per_block;
  if (thread >= together * norm.per_block || vector >= norm.vectors) return;
  float mean[width], factor[width], gradient_mean[width], slope[width];
#pragma unroll
  for (int k = 0; k < width; ++k) {
    const int channel = vector * width + k;
    const Numbers number(norm.prologue, norm.channels, channel);
    mean[k] = number.mean;
    factor[k] = number.factor;
    gradient_mean[k] = norm.means[channel];
    slope[k] = norm.slopes[channel];
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * together;
  for (int64_t pixel = static_cast<int64_t>(blockIdx.x) * together + thread / norm.per_block; pixel < norm.pixels;
       pixel += step) {
    const int64_t first = pixel * norm.channels + static_cast<int64_t>(vector) * width;
    T* const to = static_cast<T*>(norm.gradient) + first;
    const Pack<T, width> source = Pack<T, width>::from(static_cast<const T*>(norm.x) + first);
    const Pack<T, width> inner = read<T, width>(to);
    float x[width], gradient[width];
    source.get(x);
    inner.get(gradient);
#pragma unroll
    for (int k = 0; k < width; ++k)
      gradient[k] = (gradient[k] - gradient_mean[k] - (x[k] - mean[k]) * slope[k]) * factor[k];
    Pack<T, width>::of(gradient).put(to);
  }
}

// --- launch shapes ---------------------------------------------------------------------------------------------------

constexpr int64_t reserved_bytes = 1 << 10;  // of every block, by CUDA
constexpr int64_t bytes_without_async = 64 << 10;  // a device with no more shared memory has no cp.async
constexpr int64_t most_blocks = (int64_t(1) << 31) - 1;
constexpr int64_t most_pixels = most_blocks - warp_size;  // and channels, so that tiles are counted in 32 bits
constexpr int64_t waves = 4;  // blocks for each multiprocessor, at the least where there are enough

int64_t element_bytes(Storage storage) { return storage == Storage::float32 ? 4 : 2; }

// Shared memory of a block of which `blocks` fit on a multiprocessor.
int64_t room_for(const BankDevice& device, int64_t blocks) {
  return (device.shared_bytes + reserved_bytes) / blocks - reserved_bytes;
}

int round_up(int64_t a, int b) { return static_cast<int>(ceil_div(a, b) * b); }

// Channels of a chunk: a whole warp's, or half a warp's, or what leaves the fewest lanes without work; whole 16-byte
// vectors where the channels are.
int lanes_of(int64_t channels, int64_t width) {
  for (const int lanes : {warp_size, warp_size / 2})
    if (channels % lanes == 0) return lanes;
  const int64_t even = ceil_div(channels, ceil_div<int64_t, int64_t>(channels, warp_size));
  return channels % width == 0 ? round_up(even, static_cast<int>(width)) : static_cast<int>(even);
}

Tiles cut(int64_t batch, int64_t channels, int64_t height, int64_t width, int rows, int columns, int64_t vector) {
  Tiles tiles{};
  tiles.lanes = lanes_of(channels, vector);
  tiles.groups = warp_size / tiles.lanes;
  tiles.chunks = static_cast<int>(ceil_div(channels, tiles.lanes));
  tiles.rows = rows;
  tiles.columns = columns;
  tiles.down = static_cast<int>(ceil_div(height, rows));
  tiles.across = static_cast<int>(ceil_div(width, columns));
  tiles.count = static_cast<int>(batch * tiles.down * tiles.across);
  tiles.sets = ceil_div(tiles.count, tiles.groups);
  return tiles;
}

int64_t area_of(const BankFilter* filters, int64_t count) {
  int64_t area = 0;
  for (int64_t f = 0; f < count; ++f) area += filters[f].size * filters[f].size;
  return area;
}

int reach_of(const BankFilter& filter) { return static_cast<int>(filter.size / 2 * filter.dilation); }

struct ForwardPlan {
  Tiles tiles;
  int reach, step, columns, ring, fresh, threads;
  bool staged;
  int64_t bytes;
};

ForwardPlan plan_forward(Storage storage, const BankShape& shape, const BankFilter* filters, int64_t count,
                         const BankDevice& device) {
  const int64_t bytes = element_bytes(storage);
  const auto stride = static_cast<int>(shape.stride);
  const int64_t height = ceil_div(shape.height, shape.stride), width = ceil_div(shape.width, shape.stride);
  ForwardPlan plan{};
  int unit = side;
  for (int64_t f = 0; f < count; ++f) {
    plan.reach = std::max(plan.reach, reach_of(filters[f]));
    if (stride == 1 && filters[f].dilation == 2) unit = 2 * side;
  }
  plan.step = stride == 2 || (height <= side && unit == side) ? side : 2 * side;
  plan.fresh = plan.step * stride;
  plan.ring = plan.fresh + 2 * plan.reach - (stride - 1);
  plan.staged = device.shared_bytes > bytes_without_async;
  const int lanes = lanes_of(shape.channels, 16 / bytes);
  const auto fits = [&](int wanted, int64_t room) {
    const int columns = std::min(wanted, round_up(width, unit));
    plan.columns = (columns - 1) * stride + 1 + 2 * plan.reach;
    plan.bytes = plan.columns * (plan.ring * lanes_bytes + (plan.staged ? plan.fresh * warp_size * bytes : 0)) +
                 number_rows * lanes_bytes + area_of(filters, count) * lanes * 4;
    plan.tiles.columns = columns;
    return plan.bytes <= room;
  };
  // The widest tile of which two fit on a multiprocessor, so that one loads while the other computes.
  const auto choose = [&](int64_t room) {
    for (const int wanted : {32, 16, 8, 4})
      if (wanted % unit == 0 && fits(wanted, room)) return true;
    return false;
  };
  if (!choose(room_for(device, 2))) choose(room_for(device, 1));

  int band = round_up(height, plan.step);
  const int columns = plan.tiles.columns;
  const auto blocks = [&] {
    plan.tiles = cut(shape.batch, shape.channels, height, width, band, columns, 16 / bytes);
    return int64_t{plan.tiles.sets} * plan.tiles.chunks;
  };
  // Bands are halved while that keeps more multiprocessors busy; their borders are read twice.
  constexpr int least_band = 32;
  while ((blocks() < waves * device.multiprocessors && band > least_band) ||
         (blocks() < device.multiprocessors && band > plan.step))
    band = round_up(ceil_div(band, 2), plan.step);
  plan.threads = columns / side * (plan.step / side) * count >= 8 ? most_forward_threads : most_forward_threads / 2;
  return plan;
}

struct BackwardPlan {
  Tiles tiles;
  int buffer_bytes, threads, parts, rows;
  int64_t bytes;
  bool ahead, fits;
};

// `rows`: of sums beside those of the weights.
BackwardPlan plan_backward(Storage storage, const BankShape& shape, const BankFilter* filters, int64_t count, int rows,
                           const BankDevice& device) {
  const int64_t bytes = element_bytes(storage);
  const auto stride = static_cast<int>(shape.stride);
  const int lanes = lanes_of(shape.channels, 16 / bytes);
  BackwardPlan plan{};
  plan.rows = rows;
  plan.ahead = device.shared_bytes > bytes_without_async;
  int64_t largest = 0;
  for (int64_t f = 0; f < count; ++f) {
    if (!filters[f].needs_weight) continue;
    plan.rows += static_cast<int>(filters[f].size * filters[f].size);
    largest = std::max(largest, (filters[f].size * filters[f].size + 1) / 2);
  }
  const auto fits = [&](int rows, int columns, int64_t room) {
    rows = std::min(rows, round_up(shape.height, side));
    columns = std::min(columns, round_up(shape.width, side));
    int64_t pixels = rows * columns;
    for (int64_t f = 0; f < count; ++f) {
      const int border = border_before(reach_of(filters[f]), stride) + border_after(reach_of(filters[f]), stride);
      pixels = std::max<int64_t>(pixels, (rows / stride + border) * (columns / stride + border));
    }
    plan.threads = rows * columns / (side * side) * warp_size;
    plan.buffer_bytes =
        static_cast<int>(std::max(pixels * warp_size * bytes, plan.threads / warp_size * largest * lanes_bytes));
    plan.bytes = (plan.ahead ? 2 : 1) * plan.buffer_bytes + (plan.rows + number_rows) * lanes_bytes +
                 area_of(filters, count) * lanes * 4;
    plan.tiles.rows = rows;
    plan.tiles.columns = columns;
    return plan.bytes <= room;
  };
  // Two blocks to a multiprocessor rather than one with a larger tile, so that one loads while the other computes.
  plan.fits = fits(8, 16, room_for(device, 2));
  for (const auto& [rows, columns] : {std::pair{16, 16}, {8, 16}, {8, 8}, {4, 8}, {4, 4}})
    if (!plan.fits) plan.fits = fits(rows, columns, room_for(device, 1));
  plan.tiles = cut(shape.batch, shape.channels, shape.height, shape.width, plan.tiles.rows, plan.tiles.columns,
                   16 / bytes);
  plan.parts = static_cast<int>(
      std::min<int64_t>(plan.tiles.sets, ceil_div(waves * device.multiprocessors, plan.tiles.chunks)));
  return plan;
}

// Filters [first, first + count) of a launch: as even shares as there are launches.
struct Share {
  int64_t first, count;
};

Share share_of(int64_t filters, int64_t launches, int64_t launch) {
  const int64_t first = filters * launch / launches;
  return {first, filters * (launch + 1) / launches - first};
}

int64_t backward_launches(Storage storage, const BankShape& shape, const BankFilter* filters,
                          const BankDevice& device) {
  int64_t launches = ceil_div<int64_t, int64_t>(shape.filters, most_backward);
  const auto fit = [&] {
    for (int64_t launch = 0; launch < launches; ++launch) {
      const auto [first, count] = share_of(shape.filters, launches, launch);
      if (!plan_backward(storage, shape, filters + first, count, sum_rows, device).fits) return false;
    }
    return true;
  };
  while (launches < shape.filters && !fit()) ++launches;
  return launches;
}

bool is_served(Storage storage, const BankShape& shape, const BankFilter* filters) {
  bool served = storage != Storage::float64 && (shape.stride == 1 || shape.stride == 2) &&
                shape.channels <= most_pixels && shape.batch * shape.height * shape.width <= most_pixels;
  for (int64_t f = 0; f < shape.filters; ++f)
    served = served && (filters[f].size == 3 || filters[f].size == 5) &&
             (filters[f].dilation == 1 || filters[f].dilation == 2);
  return served;
}

bool is_empty(const BankShape& shape) {
  return shape.batch * shape.channels * shape.height * shape.width == 0 || shape.filters == 0;
}

Sizes sizes_of(const BankShape& shape) {
  return {static_cast<int>(shape.channels), static_cast<int>(shape.height), static_cast<int>(shape.width),
          static_cast<int>(ceil_div(shape.height, shape.stride)),
          static_cast<int>(ceil_div(shape.width, shape.stride))};
}

Status normalise(Storage storage, const BankShape& shape, const BankDevice& device, Normalise norm, Stream stream) {
  const int64_t bytes = element_bytes(storage);
  const bool vectors = is_aligned(shape.channels * bytes) && is_aligned(norm.x) && is_aligned(norm.gradient);
  norm.pixels = shape.batch * shape.height * shape.width;
  norm.channels = static_cast<int>(shape.channels);
  norm.vectors = static_cast<int>(vectors ? shape.channels * bytes / 16 : shape.channels);
  norm.per_block = std::min(norm.vectors, normalise_threads);
  const int64_t together = normalise_threads / norm.per_block;
  constexpr int64_t blocks_each = 16;
  const dim3 grid(static_cast<unsigned>(
                      std::min(ceil_div(norm.pixels, together), blocks_each * device.multiprocessors)),
                  static_cast<unsigned>(ceil_div(norm.vectors, norm.per_block)));
  return dispatch(storage, [&](auto zero) {
    using T = decltype(zero);
    if (vectors) return PARTNAS_LAUNCH(bank_normalise<T, vector_of<T>>, grid, dim3(normalise_threads), 0, stream, norm);
    return PARTNAS_LAUNCH(bank_normalise<T, 1>, grid, dim3(normalise_threads), 0, stream, norm);
  });
}

}  // namespace

#if defined(PARTNAS_EMULATOR)
BankDevice bank_device() { return {132, 227 << 10}; }
#else
BankDevice bank_device() {
  int device = 0, multiprocessors = 1, bytes = 48 << 10;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return {multiprocessors, bytes};
}
#endif

Status depthwise_bank(Storage storage, const BankShape& shape, const BankFilter* filters, const BankDevice& device,
                      const void* x, const float* const* weights, const float* statistics, const float* scale,
                      const float* shift, float eps, bool relu, void* const* maps, Stream stream) {
  if (!is_served(storage, shape, filters)) return invalid_value;
  if (is_empty(shape)) return success;
  const int64_t launches = ceil_div<int64_t, int64_t>(shape.filters, most_forward);
  for (int64_t launch = 0; launch < launches; ++launch) {
    const auto [first, count] = share_of(shape.filters, launches, launch);
    const ForwardPlan plan = plan_forward(storage, shape, filters + first, count, device);
    ForwardBank bank{x,         {statistics, scale, shift, eps, relu}, sizes_of(shape), plan.tiles, plan.reach,
                     plan.step, plan.columns,                          plan.ring,        plan.fresh, false,
                     false,     static_cast<int>(count),               {}};
    bank.vectors = is_aligned(x) && is_aligned(shape.channels * element_bytes(storage));
    bank.staged = plan.staged && bank.vectors;
    int taps = 0;
    for (int f = 0; f < bank.count; ++f) {
      const auto& [size, dilation, unused] = filters[first + f];
      bank.filters[f] = {weights[first + f], maps[first + f], static_cast<int>(size), static_cast<int>(dilation), taps};
      taps += static_cast<int>(size * size);
    }
    const int64_t blocks = int64_t{plan.tiles.sets} * plan.tiles.chunks;
    if (blocks > most_blocks || plan.bytes > device.shared_bytes) return invalid_value;
    const dim3 grid(static_cast<unsigned>(blocks)), block(static_cast<unsigned>(plan.threads));
    const auto bytes = static_cast<size_t>(plan.bytes);
    const Status status = dispatch(storage, [&](auto zero) {
      using T = decltype(zero);
      if (shape.stride == 1) return PARTNAS_LAUNCH(bank_forward<T, 1>, grid, block, bytes, stream, bank);
      return PARTNAS_LAUNCH(bank_forward<T, 2>, grid, block, bytes, stream, bank);
    });
    if (status != success) return status;
  }
  return success;
}

int64_t depthwise_bank_workspace(Storage storage, const BankShape& shape, const BankFilter* filters,
                                 const BankDevice& device) {
  if (!is_served(storage, shape, filters) || is_empty(shape)) return 0;
  const int64_t launches = backward_launches(storage, shape, filters, device);
  int64_t partial = 0;
  for (int64_t launch = 0; launch < launches; ++launch) {
    const auto [first, count] = share_of(shape.filters, launches, launch);
    const BackwardPlan plan = plan_backward(storage, shape, filters + first, count, sum_rows, device);
    partial = std::max(partial, int64_t{plan.parts} * plan.tiles.chunks * plan.rows * warp_size);
  }
  const int64_t unfinished = launches > 1 ? shape.batch * shape.channels * shape.height * shape.width : 0;
  return partial + 2 * shape.channels + unfinished;
}

Status depthwise_bank_backward(Storage storage, const BankShape& shape, const BankFilter* filters,
                               const BankDevice& device, const void* const* gradients, const void* x,
                               const float* const* weights, const float* statistics, const float* scale,
                               const float* shift, float eps, bool relu, bool before_norm, void* x_gradient,
                               float* scale_gradient, float* shift_gradient, float* const* weight_gradients,
                               float* workspace, int64_t room, Stream stream) {
  if (!is_served(storage, shape, filters)) return invalid_value;
  if (is_empty(shape)) return success;
  if (room < depthwise_bank_workspace(storage, shape, filters, device)) return invalid_value;
  const bool through_statistics = x_gradient && statistics && !before_norm;
  const bool needs_sums = scale_gradient || shift_gradient || through_statistics;
  const bool needs_value = x_gradient || needs_sums;
  const int64_t pixels = shape.batch * shape.height * shape.width;
  float* const means = workspace;
  float* const slopes = means + shape.channels;
  const int64_t launches = backward_launches(storage, shape, filters, device);
  float* const unfinished = slopes + shape.channels;
  float* const partial = unfinished + (launches > 1 ? pixels * shape.channels : 0);
  const Prologue prologue{statistics, scale, shift, eps, relu};

  for (int64_t launch = 0; launch < launches; ++launch) {
    const auto [first, count] = share_of(shape.filters, launches, launch);
    const bool last = launch == launches - 1;
    // As if there were sums, so that the shape is the one that the workspace was measured for.
    const BackwardPlan plan = plan_backward(storage, shape, filters + first, count, sum_rows, device);
    if (!plan.fits) return invalid_value;
    BackwardBank bank{};
    Finish finish{};
    bank.x = x;
    bank.gradient = last ? x_gradient : nullptr;
    bank.before = needs_value && launch > 0 ? unfinished : nullptr;
    bank.unfinished = needs_value && !last ? unfinished : nullptr;
    bank.partial = partial;
    bank.prologue = prologue;
    bank.sizes = sizes_of(shape);
    bank.tiles = plan.tiles;
    bank.parts = plan.parts;
    bank.buffer_bytes = plan.buffer_bytes;
    bank.ahead = plan.ahead;
    bank.needs_value = needs_value;
    bank.needs_sums = needs_sums && last;
    bank.scaled = scale && !statistics;
    bank.count = static_cast<int>(count);
    bank.vectors = is_aligned(x) && is_aligned(shape.channels * element_bytes(storage));
    int taps = 0;
    for (int f = 0; f < bank.count; ++f) {
      const auto& [size, dilation, needs_weight] = filters[first + f];
      const auto area = static_cast<int>(size * size);
      bank.vectors = bank.vectors && is_aligned(gradients[first + f]);
      bank.filters[f] = {weights[first + f],         gradients[first + f], static_cast<int>(size),
                         static_cast<int>(dilation), taps,                 needs_weight ? bank.rows : -1};
      finish.weights[f] = {needs_weight ? weight_gradients[first + f] : nullptr, bank.rows, area};
      taps += area;
      if (needs_weight) bank.rows += area;
    }
    if (bank.needs_sums) bank.rows += sum_rows;

    const int64_t blocks = int64_t{plan.parts} * plan.tiles.chunks;
    if (blocks > most_blocks) return invalid_value;
    const dim3 grid(static_cast<unsigned>(blocks)), block(static_cast<unsigned>(plan.threads));
    const auto bytes = static_cast<size_t>(plan.bytes);
    Status status = dispatch(storage, [&](auto zero) {
      using T = decltype(zero);
      if (shape.stride == 1) return PARTNAS_LAUNCH(bank_backward<T, 1>, grid, block, bytes, stream, bank);
      return PARTNAS_LAUNCH(bank_backward<T, 2>, grid, block, bytes, stream, bank);
    });
    if (status != success) return status;
    if (bank.rows == 0) continue;

    finish.partial = partial;
    finish.prologue = prologue;
    finish.channels = bank.sizes.channels;
    finish.lanes = plan.tiles.lanes;
    finish.groups = plan.tiles.groups;
    finish.chunks = plan.tiles.chunks;
    finish.parts = plan.parts;
    finish.rows = bank.rows;
    finish.count = bank.count;
    finish.sums = bank.needs_sums;
    finish.scale_gradient = scale_gradient;
    finish.shift_gradient = shift_gradient;
    finish.means = through_statistics ? means : nullptr;
    finish.slopes = slopes;
    finish.pixels = static_cast<double>(pixels);
    status = PARTNAS_LAUNCH(bank_finish, dim3(static_cast<unsigned>(bank.rows * plan.tiles.chunks)),
                            dim3(finish_threads), 0, stream, finish);
    if (status != success) return status;
  }
  if (!through_statistics) return success;
  return normalise(storage, shape, device, {x, x_gradient, prologue, means, slopes, 0, 0, 0, 0}, stream);
}

// The shapes of a bank of four. Where the shared memory of two blocks fits, two are to be resident.
Facts depthwise_bank_facts() {
  struct Architecture {
    int number;
    BankDevice device;
  };
  constexpr Architecture architectures[] = {
      {75, {72, 64 << 10}}, {80, {108, 163 << 10}}, {90, {132, 227 << 10}}, {100, {148, 227 << 10}}};
  struct Names {
    Storage storage;
    int64_t stride;
    const char *forward, *backward;
  };
  constexpr Names launches[] = {{Storage::float32, 1, "bank_forward<float, 1>", "bank_backward<float, 1>"},
                                {Storage::float32, 2, "bank_forward<float, 2>", "bank_backward<float, 2>"},
                                {Storage::bfloat16, 1, "bank_forward<__.*, 1>", "bank_backward<__.*, 1>"},
                                {Storage::bfloat16, 2, "bank_forward<__.*, 2>", "bank_backward<__.*, 2>"}};
  constexpr BankFilter filters[] = {{3, 1, 1}, {5, 1, 1}, {3, 2, 1}, {5, 2, 1}};
  Facts facts;
  for (const auto& [number, device] : architectures) {
    const auto add = [&](const char* name, const auto& plan) {
      const int blocks = plan.bytes <= room_for(device, 2) ? 2 : 1;
      facts.push_back({name, plan.threads, static_cast<int>(plan.bytes), blocks * plan.threads / warp_size, number});
    };
    for (const auto& [storage, stride, forward, backward] : launches) {
      const BankShape shape{40, 16, 128, 128, stride, 4};
      add(forward, plan_forward(storage, shape, filters, 4, device));
      add(backward, plan_backward(storage, shape, filters, 4, sum_rows, device));
    }
  }
  facts.push_back({"bank_finish", finish_threads, 0, 32});
  facts.push_back({"bank_normalise<.*>", normalise_threads, 0, 24});
  return facts;
}

}  // namespace partnas::cuda
