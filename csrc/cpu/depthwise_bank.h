// What the depthwise kernels are told, in plain numbers.
#pragma once

#include <stdint.h>

#include "common/capability.h"
#include "common/storage.h"

namespace partnas {

// Taps [first_tap, first_tap + size * size) of the bank. The size is 3 or 5, the dilation 1 or 2. Whether its weights
// need a gradient matters to the backward alone.
struct Filter {
  int64_t size, dilation, first_tap;
  bool needs_weight;
};

// A bank and the channels-last maps that it reads and writes. `value`, what the filters see, is
// relu((x - mean) * factor + offset), per channel; all three are null where there is nothing of the kind. `streams`: maps
// that allow it are written past the caches.
struct Bank {
  Storage storage;
  int64_t channels, height, width, output_height, output_width;
  int64_t stride, reach;  // 1 or 2; the furthest tap from a filter's centre
  const Filter* filters;
  int64_t count, taps;
  const float *mean, *factor, *offset;
  bool relu, streams;
};

// A channel vector of a few rows of one image. The maps begin with row `origin` of those of all images.
struct Piece {
  int64_t image, begin, end;
  int64_t vector;
  int64_t origin = 0;
};

// What the backward forms; null for what nobody asked for.
struct BankGradients {
  void* x;           // of the maps' type: of the value before the clip, times `factor` if `scaled`
  bool scaled;
  float* weights;    // [taps][lanes], added to
  float* sums;       // [2][lanes], added to: gradient before the clip, and that times (x - mean)
};

// Channels are taken in vectors of `lanes`; the last vector ends with the last channel and may overlap the one before.
#define PARTNAS_DECLARE(capability)                                                                                   \
  namespace capability {                                                                                              \
  int64_t bank_lanes();                                                                                               \
  /* Floats that bank_forward and bank_backward need to work in. */                                                   \
  int64_t bank_scratch(const Bank& bank);                                                                             \
  /* weights [count] of [C][size][size] -> [taps][lanes] for one vector. */                                           \
  void pack_taps(const Bank& bank, const float* const* weights, int64_t vector, float* taps);                         \
  /* Adds `groups` blocks of [taps][lanes], `stride` apart, and unpacks them: weights[f] null is left out. */         \
  void unpack_taps(const Bank& bank, const float* sums, int64_t groups, int64_t stride, int64_t vector,               \
                   float* const* weights);                                                                            \
  /* Rows [begin, end) of all maps. */                                                                                \
  void bank_forward(const Bank& bank, const void* x, const float* taps, const Piece& piece, void* const* maps,        \
                    float* scratch);                                                                                  \
  /* Rows [begin, end) of x, begin a multiple of the stride, and the share in the weights of the gradient rows whose  \
     centre lies in them. */                                                                                          \
  void bank_backward(const Bank& bank, const void* x, const float* taps, const Piece& piece,                          \
                     const void* const* gradients, const BankGradients& wanted, float* scratch);                      \
  /* gradient = factor * (gradient - mean_gradient - (x - mean) * slope), per channel, pixels [begin, end). */        \
  void normalise_gradient(const Bank& bank, const void* x, const float* mean_gradient, const float* slope,            \
                          int64_t begin, int64_t end, void* gradient);                                                \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
