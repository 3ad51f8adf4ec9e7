// Soft-argmax over D x H x W: one read of the volume forward; one read and one write backward.
//
// A row is the contiguous axis of one part, cut into vectors. A thread keeps to one column of vectors and goes down the
// rows, several loads ahead, with its sums in registers: of e^(v - reference) and of that times each coordinate. It moves
// its reference only when a value rises by more than `headroom` above it, so that nearly all vectors are added without a
// branch taken. Where parts lie one after the other (channels-last), a block takes the columns of several at once and so
// reads memory in the order in which it lies. The rows of a volume are shared out over blocks, by its shape alone; each
// leaves five numbers a part, and a second kernel adds those in a fixed order.
#include "cuda/soft_argmax_3d.h"

#include <float.h>
#include <limits.h>

#include <algorithm>

#include "common/launch.cuh"

namespace partnas::cuda {
namespace {

constexpr int most_threads = 320, usual_threads = 256, order_length = 256;
// Vectors that a thread has under way.
constexpr int ahead = 4, ahead_backward = 2;
constexpr int finish_threads = 128;
constexpr float headroom = 40.0f, log2_e = 1.44269504f;

// Who reads what: `lanes` threads along a row of one part, `together` parts, `rows` rows at a time; a group of parts is
// cut into `segments` of rows. From a row to the one that a thread takes next: `step_outer` and `step_middle` on, which
// are `step` elements, and `wrap` more where that is past the last middle.
struct Plan {
  int vectors, lanes, together, rows, threads, segments, step_outer, step_middle;
  int64_t parts, groups, step, wrap;
};

// Indices of parts, as an argument of the kernel: nothing is copied to the device.
struct Order {
  int part[order_length];
};

Plan plan_of(const Volume& v, int64_t parts, int vector, int64_t element) {
  Plan plan{};
  plan.parts = parts;
  plan.vectors = static_cast<int>(v.inner / vector);
  plan.lanes = ceil_div(plan.vectors, ceil_div(plan.vectors, usual_threads));
  plan.together = 1;
  if (v.part_stride == v.inner) plan.together = static_cast<int>(std::min<int64_t>(most_threads / plan.lanes, parts));
  plan.together = std::min(plan.together, order_length);
  plan.groups = ceil_div(parts, plan.together);
  plan.together = static_cast<int>(ceil_div(parts, plan.groups));
  const int columns = plan.lanes * plan.together;
  const int64_t rows = v.outer * v.middle;
  plan.rows = static_cast<int>(std::min<int64_t>(std::max(1, usual_threads / columns), rows));
  plan.threads = ceil_div(columns * plan.rows, warp_size) * warp_size;

  // Pieces small enough to give every multiprocessor several, and no smaller than is worth a block.
  constexpr int64_t smallest = 16 << 10, largest = 128 << 10, blocks = 4096;
  const int64_t bytes = plan.together * rows * v.inner * element;
  const int64_t piece = std::clamp(v.batch * plan.groups * bytes / blocks, smallest, largest);
  plan.step_outer = static_cast<int>(plan.rows / v.middle);
  plan.step_middle = static_cast<int>(plan.rows % v.middle);
  plan.step = plan.step_outer * v.outer_stride + plan.step_middle * v.middle_stride;
  plan.wrap = v.outer_stride - v.middle * v.middle_stride;
  plan.segments = static_cast<int>(std::clamp<int64_t>(ceil_div(bytes, piece), 1, ceil_div(rows, plan.rows)));
  return plan;
}

// This thread's place.
struct Place {
  int sample, segment, row, end, group_part, lane;
  bool works;

  __device__ __forceinline__ Place(const Volume& v, const Plan& plan, int groups) {
    const int columns = plan.lanes * plan.together, thread = static_cast<int>(threadIdx.x);
    const int first_row = thread / columns, column = thread % columns;
    const int block = static_cast<int>(blockIdx.x), rows = static_cast<int>(v.outer * v.middle);
    segment = block % plan.segments;
    group_part = block / plan.segments % groups * plan.together + column / plan.lanes;
    sample = block / plan.segments / groups;
    lane = column % plan.lanes;
    row = static_cast<int>(static_cast<int64_t>(rows) * segment / plan.segments) + first_row;
    end = static_cast<int>(static_cast<int64_t>(rows) * (segment + 1) / plan.segments);
    works = first_row < plan.rows;
  }
};

// The indices of a row, as whole numbers or as floats, which hold them exactly.
template <typename Index>
struct Row {
  Index outer, middle;

  __device__ __forceinline__ Row(int row, int middles)
      : outer(static_cast<Index>(row / middles)), middle(static_cast<Index>(row % middles)) {}
  __device__ __forceinline__ void advance(const Plan& plan, Index middles) {
    middle += static_cast<Index>(plan.step_middle);
    outer += static_cast<Index>(plan.step_outer);
    if (middle >= middles) {
      middle -= middles;
      outer += 1;
    }
  }
};

// Where a row lies.
template <typename T>
struct Cursor {
  T* at;
  int middle;

  __device__ __forceinline__ Cursor(T* base, int row, const Volume& v)
      : at(base + row / static_cast<int>(v.middle) * v.outer_stride + row % static_cast<int>(v.middle) * v.middle_stride),
        middle(row % static_cast<int>(v.middle)) {}
  __device__ __forceinline__ void advance(const Plan& plan, int middles, int64_t step, int64_t wrap) {
    at += step;
    middle += plan.step_middle;
    if (middle >= middles) {
      middle -= middles;
      at += wrap;
    }
  }
};

struct Sums {
  float reference = -FLT_MAX, sum = 0, inner = 0, middle = 0, outer = 0;

  __device__ __forceinline__ void scale(float factor) {
    sum *= factor;
    inner *= factor;
    middle *= factor;
    outer *= factor;
  }

  template <int count>
  __device__ __forceinline__ void add(const float (&x)[count], float first, const Row<float>& row) {
    float top = x[0];
#pragma unroll
    for (int i = 1; i < count; ++i) top = fmaxf(top, x[i]);
    // -FLT_MAX stands for "nothing but -inf so far": its exponentials are zero, and anything finite lifts it.
    if (top - reference > headroom) {
      scale(exp2_fast((reference - top) * log2_e));
      reference = top;
    }
    float total = exp2_fast((x[0] - reference) * log2_e), weighted = 0;
#pragma unroll
    for (int i = 1; i < count; ++i) {
      const float e = exp2_fast((x[i] - reference) * log2_e);
      total += e;
      weighted = i == 1 ? e : fmaf(e, static_cast<float>(i), weighted);
    }
    sum += total;
    inner += fmaf(total, first, weighted);
    middle = fmaf(total, row.middle, middle);
    outer = fmaf(total, row.outer, outer);
  }
};

// What sums relative to `reference` are worth relative to a greater one; a NaN stays one.
__device__ __forceinline__ float rebased(float reference, float sum, float to) {
  return sum == 0 ? 0.0f : expf(reference - to);
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(all_lanes, x, lanes));
  return x;
}

// partials [B, parts, segments, 5] of parts first_part + i, which are parts order[i] of the volume.
template <typename T, int count>
__global__ void __launch_bounds__(most_threads, 2)
    soft_argmax_3d_sums(const T* __restrict__ volume, Volume v, Plan plan, int64_t first_part, int groups,
                        const __grid_constant__ Order order, float* __restrict__ partials) {
  PARTNAS_SHARED float shared[5][most_threads];
  const Place place(v, plan, groups);
  Sums sums;
  if (place.works && first_part + place.group_part < plan.parts) {
    const int middles = static_cast<int>(v.middle);
    const T* base = volume + place.sample * v.batch_stride + order.part[place.group_part] * v.part_stride;
    for (int vector = place.lane; vector < plan.vectors; vector += plan.lanes) {
      const auto first = static_cast<float>(static_cast<int64_t>(vector) * count);
      Cursor next(base + static_cast<int64_t>(vector) * count, place.row, v);
      Row<float> at(place.row, middles);
      for (int row = place.row; row < place.end; row += ahead * plan.rows) {
        Pack<T, count> loaded[ahead];
#pragma unroll
        for (int i = 0; i < ahead; ++i) {
          if (row + i * plan.rows < place.end) loaded[i] = Pack<T, count>::from(next.at);
          next.advance(plan, middles, plan.step, plan.wrap);
        }
#pragma unroll
        for (int i = 0; i < ahead; ++i) {
          if (row + i * plan.rows < place.end) {
            float x[count];
            loaded[i].get(x);
            sums.add(x, first, at);
          }
          at.advance(plan, static_cast<float>(middles));
        }
      }
    }
  }
  shared[0][threadIdx.x] = sums.reference;
  shared[1][threadIdx.x] = sums.sum;
  shared[2][threadIdx.x] = sums.inner;
  shared[3][threadIdx.x] = sums.middle;
  shared[4][threadIdx.x] = sums.outer;
  __syncthreads();

  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warps = plan.threads / warp_size, columns = plan.lanes * plan.together, members = plan.lanes * plan.rows;
  const int group = static_cast<int>(blockIdx.x) / plan.segments % groups;
  for (int part = warp; part < plan.together; part += warps) {
    const int64_t result = first_part + group * plan.together + part;
    if (result >= plan.parts) break;
    float reference = -FLT_MAX;
    for (int i = lane; i < members; i += warp_size)
      reference = fmaxf(reference, shared[0][i / plan.lanes * columns + part * plan.lanes + i % plan.lanes]);
    reference = warp_max(reference);
    float total[4] = {0, 0, 0, 0};
    for (int i = lane; i < members; i += warp_size) {
      const int member = i / plan.lanes * columns + part * plan.lanes + i % plan.lanes;
      const float factor = rebased(shared[0][member], shared[1][member], reference);
#pragma unroll
      for (int k = 0; k < 4; ++k) total[k] = fmaf(factor, shared[k + 1][member], total[k]);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) total[k] = warp_sum(total[k]);
    float* to = partials + ((place.sample * plan.parts + result) * plan.segments + place.segment) * 5;
    if (lane == 0) {
      to[0] = reference;
#pragma unroll
      for (int k = 0; k < 4; ++k) to[k + 1] = total[k];
    }
  }
}

// One warp a part. The reference is moved so that the sum is 1 but for the rounding of the reference: e^(v - reference)
// then never overflows in backward.
__global__ void __launch_bounds__(finish_threads, 8)
    soft_argmax_3d_finish(const float* __restrict__ partials, int64_t volumes, int64_t segments, bool channels_last,
                          float* __restrict__ xyz, float* __restrict__ statistics) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int64_t volume = (static_cast<int64_t>(blockIdx.x) * finish_threads + threadIdx.x) / warp_size;
  if (volume >= volumes) return;
  const float* mine = partials + volume * segments * 5;
  float reference = -FLT_MAX;
  for (int64_t i = lane; i < segments; i += warp_size) reference = fmaxf(reference, mine[5 * i]);
  reference = warp_max(reference);
  double total[4] = {0, 0, 0, 0};
  for (int64_t i = lane; i < segments; i += warp_size) {
    const double factor = rebased(mine[5 * i], mine[5 * i + 1], reference);
#pragma unroll
    for (int k = 0; k < 4; ++k) total[k] += factor * mine[5 * i + k + 1];
  }
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int lanes = warp_size / 2; lanes > 0; lanes /= 2)
      total[k] += __shfl_xor_sync(all_lanes, total[k], lanes);
  if (lane != 0) return;
  const double sum = total[0];
  const auto moved = static_cast<float>(reference + log(sum));
  const auto inner = static_cast<float>(total[1] / sum), middle = static_cast<float>(total[2] / sum),
             outer = static_cast<float>(total[3] / sum);
  const float x = channels_last ? middle : inner, y = channels_last ? outer : middle, z = channels_last ? inner : outer;
  statistics[5 * volume] = moved;
  statistics[5 * volume + 1] = static_cast<float>(sum * exp(static_cast<double>(reference) - moved));
  xyz[3 * volume] = statistics[5 * volume + 2] = x;
  xyz[3 * volume + 1] = statistics[5 * volume + 3] = y;
  xyz[3 * volume + 2] = statistics[5 * volume + 4] = z;
}

// inverse[i]: where part first_part + i of the volume stands in the order; -1 where nobody reads it.
template <typename T, int count>
__global__ void __launch_bounds__(most_threads, 2)
    soft_argmax_3d_gradient(const T* __restrict__ volume, Volume v, Plan plan, int64_t first_part, int groups,
                            const __grid_constant__ Order inverse, const float* __restrict__ gradient,
                            const float* __restrict__ statistics, int64_t parts, bool channels_last,
                            T* __restrict__ output, Volume to) {
  const Place place(v, plan, groups);
  const int64_t part = first_part + place.group_part;
  if (!place.works || part >= plan.parts) return;
  const T* from = volume + place.sample * v.batch_stride + part * v.part_stride;
  T* result = output + place.sample * to.batch_stride + part * to.part_stride;
  const int middles = static_cast<int>(v.middle), position = inverse.part[place.group_part];
  const int64_t step = plan.step_outer * to.outer_stride + plan.step_middle * to.middle_stride;
  const int64_t wrap = to.outer_stride - to.middle * to.middle_stride;

  float reference = 0, inner_slope = 0, middle_slope = 0, outer_slope = 0;
  float inner_mean = 0, middle_mean = 0, outer_mean = 0;
  if (position >= 0) {
    const float* g = gradient + (place.sample * parts + position) * 3;
    const float* s = statistics + (place.sample * parts + position) * 5;
    const float weight = 1.0f / s[1], gx = g[0] * weight, gy = g[1] * weight, gz = g[2] * weight;
    reference = s[0];
    inner_slope = channels_last ? gz : gx;
    middle_slope = channels_last ? gx : gy;
    outer_slope = channels_last ? gy : gz;
    inner_mean = channels_last ? s[4] : s[2];
    middle_mean = channels_last ? s[2] : s[3];
    outer_mean = channels_last ? s[3] : s[4];
  }

  for (int vector = place.lane; vector < plan.vectors; vector += plan.lanes) {
    const int64_t first = static_cast<int64_t>(vector) * count;
    float columns[count];
#pragma unroll
    for (int i = 0; i < count; ++i) columns[i] = inner_slope * (static_cast<float>(first + i) - inner_mean);
    Cursor next(from + first, place.row, v);
    Cursor target(result + first, place.row, to);
    Row<float> at(place.row, middles);
    for (int row = place.row; row < place.end; row += ahead_backward * plan.rows) {
      Pack<T, count> loaded[ahead_backward];
#pragma unroll
      for (int i = 0; i < ahead_backward; ++i) {
        if (position >= 0 && row + i * plan.rows < place.end) loaded[i] = Pack<T, count>::from(next.at);
        next.advance(plan, middles, plan.step, plan.wrap);
      }
#pragma unroll
      for (int i = 0; i < ahead_backward; ++i) {
        if (row + i * plan.rows < place.end) {
          Pack<T, count> gradients = Pack<T, count>::zero();
          if (position >= 0) {
            const float of_row = outer_slope * (at.outer - outer_mean) + middle_slope * (at.middle - middle_mean);
            float x[count];
            loaded[i].get(x);
#pragma unroll
            for (int k = 0; k < count; ++k) x[k] = exp2_fast((x[k] - reference) * log2_e) * (columns[k] + of_row);
            gradients = Pack<T, count>::of(x);
          }
          gradients.put(target.at);
        }
        target.advance(plan, middles, step, wrap);
        at.advance(plan, static_cast<float>(middles));
      }
    }
  }
}

// Whether all rows are whole vectors that begin where a vector may.
bool is_vectors(const void* data, const Volume& v, int64_t element) {
  return is_aligned(data) && is_aligned(v.inner * element) && is_aligned(v.batch_stride * element) &&
         is_aligned(v.part_stride * element) && is_aligned(v.outer_stride * element) &&
         is_aligned(v.middle_stride * element);
}

int64_t element_of(Storage storage) { return storage == Storage::float32 ? 4 : 2; }

// Rows are counted in 32 bits, and a step over the end of them still is; their indices in floats; elements in 64.
bool fits(const Volume& v) {
  constexpr int64_t most_rows = INT_MAX / 4, most_index = 1 << 23;
  return v.outer <= most_index && v.middle <= most_index && v.outer * v.middle <= most_rows && v.inner <= INT_MAX &&
         v.batch <= INT_MAX;
}

// The launches of `plan`, as many groups at a time as their order has room for: run(first group, groups, grid).
template <typename Run>
Status over_groups(const Plan& plan, int64_t batch, const Run& run) {
  const int64_t step = order_length / plan.together;
  for (int64_t first = 0; first < plan.groups; first += step) {
    const int64_t groups = std::min(step, plan.groups - first), blocks = batch * groups * plan.segments;
    if (blocks > INT_MAX) return invalid_value;
    const Status status = run(first * plan.together, static_cast<int>(groups), static_cast<unsigned>(blocks));
    if (status != success) return status;
  }
  return success;
}

template <typename T, int count>
Status forward(const T* volume, const Volume& v, const int64_t* order, int64_t parts, bool channels_last,
               float* partials, float* xyz, float* statistics, Stream stream) {
  const Plan plan = plan_of(v, parts, count, sizeof(T));
  const Status status = over_groups(plan, v.batch, [&](int64_t first, int groups, unsigned blocks) {
    Order some{};
    for (int64_t i = 0; i < std::min<int64_t>(groups * plan.together, parts - first); ++i)
      some.part[i] = static_cast<int>(order[first + i]);
    return PARTNAS_LAUNCH(soft_argmax_3d_sums<T, count>, dim3(blocks), dim3(plan.threads), 0, stream, volume, v, plan,
                          first, groups, some, partials);
  });
  const int64_t volumes = v.batch * parts, blocks = ceil_div(volumes * warp_size, finish_threads);
  if (status != success) return status;
  if (blocks > INT_MAX) return invalid_value;
  return PARTNAS_LAUNCH(soft_argmax_3d_finish, dim3(static_cast<unsigned>(blocks)), dim3(finish_threads), 0, stream,
                        partials, volumes, plan.segments, channels_last, xyz, statistics);
}

template <typename T, int count>
Status backward(const float* gradient, const T* volume, const Volume& v, const float* statistics, const int64_t* order,
                int64_t parts, bool channels_last, T* output, const Volume& to, Stream stream) {
  const Plan plan = plan_of(v, v.parts, count, sizeof(T));
  return over_groups(plan, v.batch, [&](int64_t first, int groups, unsigned blocks) {
    Order inverse;
    std::fill(inverse.part, inverse.part + order_length, -1);
    for (int64_t i = 0; i < parts; ++i)
      if (order[i] >= first && order[i] < first + order_length)
        inverse.part[order[i] - first] = static_cast<int>(i);
    return PARTNAS_LAUNCH(soft_argmax_3d_gradient<T, count>, dim3(blocks), dim3(plan.threads), 0, stream, volume, v,
                          plan, first, groups, inverse, gradient, statistics, parts, channels_last, output, to);
  });
}

}  // namespace

int64_t soft_argmax_3d_scratch(Storage storage, const void* volume, const Volume* shape, int64_t parts) {
  if (shape->batch * parts == 0) return 0;
  const int64_t element = element_of(storage);
  const int vector = is_vectors(volume, *shape, element) ? static_cast<int>(16 / element) : 1;
  return shape->batch * parts * plan_of(*shape, parts, vector, element).segments * 5;
}

Status soft_argmax_3d(Storage storage, const void* volume, const Volume* shape, const int64_t* order, int64_t parts,
                      bool channels_last, float* scratch, float* xyz, float* statistics, Stream stream) {
  if (shape->batch * parts == 0) return success;
  if (!fits(*shape)) return invalid_value;
  return dispatch(storage, [&](auto type) {
    using T = decltype(type);
    const auto* from = static_cast<const T*>(volume);
    if (is_vectors(volume, *shape, sizeof(T)))
      return forward<T, vector_of<T>>(from, *shape, order, parts, channels_last, scratch, xyz, statistics, stream);
    return forward<T, 1>(from, *shape, order, parts, channels_last, scratch, xyz, statistics, stream);
  });
}

Status soft_argmax_3d_backward(Storage storage, const float* gradient, const void* volume, const Volume* shape,
                               const float* statistics, const int64_t* order, int64_t parts, bool channels_last,
                               void* output, const Volume* to, Stream stream) {
  if (shape->batch * shape->parts == 0) return success;
  if (!fits(*shape)) return invalid_value;
  return dispatch(storage, [&](auto type) {
    using T = decltype(type);
    const auto* from = static_cast<const T*>(volume);
    auto* result = static_cast<T*>(output);
    if (is_vectors(volume, *shape, sizeof(T)) && is_vectors(output, *to, sizeof(T)))
      return backward<T, vector_of<T>>(gradient, from, *shape, statistics, order, parts, channels_last, result, *to,
                                       stream);
    return backward<T, 1>(gradient, from, *shape, statistics, order, parts, channels_last, result, *to, stream);
  });
}

Facts soft_argmax_3d_facts() {
  return {{"soft_argmax_3d_sums<.*>", most_threads, 0, 20},
          {"soft_argmax_3d_finish", finish_threads, 0, 32},
          {"soft_argmax_3d_gradient<.*>", most_threads, 0, 20}};
}

}  // namespace partnas::cuda
