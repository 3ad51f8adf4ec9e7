// Permutation of the channels of channels-last pixels: gathers inside a pixel, which lies in L1.
#include "cpu/channel_shuffle.h"

#include <string.h>

namespace partnas::PARTNAS_CAPABILITY {
namespace {

struct Bytes16 {
  uint64_t low, high;
};

template <typename T>
void permute(const T* __restrict__ input, T* __restrict__ output, const int32_t* __restrict__ source, int64_t channels,
             int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const T* from = input + pixel * channels;
    T* to = output + pixel * channels;
    for (int64_t c = 0; c < channels; ++c) to[c] = from[source[c]];
  }
}

}  // namespace

void permute_pixels(int64_t element, const void* input, void* output, const int32_t* source, int64_t channels,
                    int64_t begin, int64_t end) {
  const auto run = [&](auto* typed, const auto* from) { permute(from, typed, source, channels, begin, end); };
  switch (element) {
    case 1: return run(static_cast<uint8_t*>(output), static_cast<const uint8_t*>(input));
    case 2: return run(static_cast<uint16_t*>(output), static_cast<const uint16_t*>(input));
    case 4: return run(static_cast<uint32_t*>(output), static_cast<const uint32_t*>(input));
    case 8: return run(static_cast<uint64_t*>(output), static_cast<const uint64_t*>(input));
    default: return run(static_cast<Bytes16*>(output), static_cast<const Bytes16*>(input));
  }
}

}  // namespace partnas::PARTNAS_CAPABILITY
