// What the channel-shuffle kernels are told, in plain numbers.
#pragma once

#include <stdint.h>

#include "common/capability.h"

namespace partnas {

constexpr int64_t shuffle_width = 32;

// One step of gathering `shuffle_width` output bytes: where index[i] < 16, output byte i is byte source + index[i] of
// the input; elsewhere it is left to another step.
struct ShuffleStep {
  int32_t source;
  uint8_t index[shuffle_width];
};

// Steps [first_step, first_step of the next vector) give the output bytes from `target` on.
struct ShuffleVector {
  int32_t target, first_step;
};

#define PARTNAS_DECLARE(capability)                                                                                    \
  namespace capability {                                                                                               \
  /* Output runs [begin, end): run i of `bytes` bytes is input run order[i % runs] of the same group of `runs`. */     \
  void copy_runs(const char* input, char* output, const int64_t* order, int64_t runs, int64_t bytes, int64_t begin,    \
                 int64_t end);                                                                                         \
  /* Pixels [begin, end) of `bytes` bytes each, every one of them by the same steps. */                                \
  void shuffle_pixels(const char* input, char* output, const ShuffleVector* vectors, int64_t count,                    \
                      const ShuffleStep* steps, int64_t bytes, int64_t begin, int64_t end);                            \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
