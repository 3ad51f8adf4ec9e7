// What the channel-shuffle kernels are told, in plain numbers.
#pragma once

#include <stdint.h>

#include "common/capability.h"

namespace partnas {

#define PARTNAS_DECLARE(capability)                                                                                   \
  namespace capability {                                                                                              \
  /* Per pixel of [begin, end): element c of the output is element source[c] of the input, `channels` of them, each   \
     of `element` = 1, 2, 4, 8 or 16 bytes. */                                                                        \
  void permute_pixels(int64_t element, const void* input, void* output, const int32_t* source, int64_t channels,      \
                      int64_t begin, int64_t end);                                                                    \
  }
PARTNAS_FOR_EACH_CAPABILITY(PARTNAS_DECLARE)
#undef PARTNAS_DECLARE

}  // namespace partnas
