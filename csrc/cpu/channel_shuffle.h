// What the channel-shuffle kernels are told, in plain numbers.
#pragma once

#include <stdint.h>

#include "common/capability.h"

namespace partnas {

// How an instruction set shuffles: an output vector of `width` bytes is gathered in steps, each of which reaches
// `window` bytes of the input; all in units of `unit` bytes. A width of 0: it cannot.
struct ShuffleForm {
  int32_t unit, width, window;
};

// Where bit i of `mask` is set, output unit i is unit index[i] of the input from byte `source` on; elsewhere it is left
// to another step. An index is as wide as a unit; for units of one byte it is 0x80 where the mask is not set.
struct ShuffleStep {
  int32_t source;
  uint32_t mask;
  uint8_t index[64];
};

// Steps [first_step, first_step of the next vector) give the output vector at byte `target`.
struct ShuffleVector {
  int32_t target, first_step;
};

#define PARTNAS_DECLARE(capability)                                                                                    \
  namespace capability {                                                                                               \
  /* Output runs [begin, end): run i of `bytes` bytes is input run order[i % runs] of the same group of `runs`. */     \
  /* `streams`: the output is too large to be found in a cache when it is read. */                                     \
  void copy_runs(const char* input, char* output, const int64_t* order, int64_t runs, int64_t bytes, int64_t begin,    \
                 int64_t end, bool streams);                                                                           \
  /* Pixels [begin, end) of `units` units each: output unit i is input unit source[i]; units of 1, 2 or 4 bytes. */    \
  void gather_pixels(const char* input, char* output, const int32_t* source, int64_t units, int32_t unit,              \
                     int64_t begin, int64_t end);                                                                      \
  /* Pixels [begin, end) of 2, 4 or 8 `groups` of `units` units of 4 bytes: output unit j * groups + q is input unit     \
     q * units + j. False where the instruction set has no way for that. */                                            \
  bool interleave_pixels(const char* input, char* output, int64_t groups, int64_t units, int64_t begin, int64_t end,   \
                         bool streams);                                                                                \
  /* For pixels whose order is in units of 1, 2 or 4 bytes. */                                                         \
  ShuffleForm shuffle_form(int32_t unit);                                                                              \
  /* Blocks [begin, end) of `bytes` bytes each, every one of them by the same steps. */                                \
  void shuffle_blocks(const ShuffleForm& form, const char* input, char* output, const ShuffleVector* vectors,          \
                      int64_t count, const ShuffleStep* steps, int64_t bytes, int64_t begin, int64_t end,              \
                      bool streams);                                                                                   \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
