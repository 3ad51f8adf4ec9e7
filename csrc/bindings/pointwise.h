// What the calls of pointwise on the CPU have in common: their kernels, packed matrices and sums.
#pragma once

#include <algorithm>
#include <vector>

#include "common/tensor.h"
#include "cpu/pointwise.h"

namespace partnas {

// Multiply-adds that are worth a thread.
constexpr int64_t pointwise_grain = 1 << 18;

struct PointwiseKernels {
  decltype(&baseline::pointwise_lanes) lanes;
  decltype(&baseline::pointwise_room) room;
  decltype(&baseline::pointwise_scratch) scratch;
  decltype(&baseline::pack_pointwise) pack;
  decltype(&baseline::pointwise_columns) columns;
  decltype(&baseline::pointwise) run;
};

#define PARTNAS_POINTWISE_KERNELS(capability)                                                     \
  PointwiseKernels {                                                                              \
    capability::pointwise_lanes, capability::pointwise_room, capability::pointwise_scratch,       \
        capability::pack_pointwise, capability::pointwise_columns, capability::pointwise          \
  }

// The kernels of the vectors that `channels` fill best.
inline PointwiseKernels pointwise_kernels_for(int64_t channels) {
#if defined(__x86_64__)
  if (capability() == Capability::avx512 && avx512::pointwise_room(channels) == avx2::pointwise_room(channels))
    return PARTNAS_POINTWISE_KERNELS(avx512);
  if (capability() != Capability::baseline) return PARTNAS_POINTWISE_KERNELS(avx2);
#endif
  (void)channels;
  return PARTNAS_POINTWISE_KERNELS(baseline);
}

inline Tensor checked_weight(const Tensor& weight, const char* name) {
  STD_TORCH_CHECK(weight.dim() == 3, name, ": weight must be (F, C_out, C_in)");
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float, name, ": weight must be float32");
  return weight.is_contiguous() ? weight : contiguous_copy(weight);
}

// The matrices of all maps, each packed, after `before` floats.
inline Tensor packed_matrices(const PointwiseKernels& kernels, const PointwiseShape& shape, const Tensor& weight,
                              int64_t out_stride, int64_t in_stride, int64_t before = 0) {
  const int64_t count = weight.size(0), in = shape.in, room = in * kernels.room(shape.out);
  Tensor result = empty({before + count * room}, ScalarType::Float);
  const auto* from = static_cast<const float*>(weight.data_ptr());
  auto* to = static_cast<float*>(result.data_ptr()) + before;
  const int64_t grain = std::max<int64_t>(1, pointwise_grain / 16 / std::max<int64_t>(1, shape.out));
  torch::stable::parallel_for(0, count * in, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t f = begin / in, stop = std::min(end, (f + 1) * in);
      const float* matrix = from + f * in * shape.out;
      kernels.pack(shape, matrix, out_stride, in_stride, begin - f * in, stop - f * in, to + f * room);
      begin = stop;
    }
  });
  return result;
}

// The sums of all pieces of each of `count` maps, each [in][room], as the weights' gradient [F][out of the
// forward][in of the forward].
inline void add_pieces(const float* sums, int64_t count, int64_t pieces, const PointwiseShape& shape, int64_t room,
                       float* gradient) {
  const int64_t size = shape.in * room;
  const int64_t grain = std::max<int64_t>(1, pointwise_grain / 16 / (pieces * room));
  torch::stable::parallel_for(0, count * shape.in, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> total(static_cast<size_t>(shape.out));
    for (int64_t row = begin; row < end; ++row) {
      const float* from = sums + row / shape.in * pieces * size + row % shape.in * room;
      std::copy_n(from, shape.out, total.data());
      for (int64_t piece = 1; piece < pieces; ++piece)
        for (int64_t o = 0; o < shape.out; ++o) total[static_cast<size_t>(o)] += from[piece * size + o];
      std::copy_n(total.data(), shape.out, gradient + row * shape.out);
    }
  });
}

}  // namespace partnas
