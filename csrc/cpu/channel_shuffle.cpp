// Channel permutation as copies of long runs, or as byte shuffles inside a pixel.
//
// Byte shuffles (pshufb) treat every element size and every order alike: a group shuffle takes two steps for 32 bytes,
// which keeps up with a copy; an element at a time is a third of that speed or less.
#include "cpu/channel_shuffle.h"

#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace partnas::PARTNAS_CAPABILITY {
namespace {

struct Block {
  char bytes[64];
};

// libc's memcpy costs more to call than a run of a few hundred bytes takes to copy.
inline void copy(char* to, const char* from, int64_t bytes) {
  if (bytes < static_cast<int64_t>(sizeof(Block))) {
    memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  const int64_t last = bytes - static_cast<int64_t>(sizeof(Block));
  Block block;
  for (int64_t i = 0; i < last; i += sizeof(Block)) {
    memcpy(&block, from + i, sizeof(block));
    memcpy(to + i, &block, sizeof(block));
  }
  memcpy(&block, from + last, sizeof(block));
  memcpy(to + last, &block, sizeof(block));
}

// `pixels` pixels at once, so that each step's index is loaded once for all of them.
template <int pixels>
void shuffle(const char* input, char* output, const ShuffleVector* vectors, int64_t count, const ShuffleStep* steps,
             int64_t bytes) {
  for (int64_t v = 0; v < count; ++v) {
    const int32_t target = vectors[v].target;
#if defined(__AVX2__)
    __m256i result[pixels] = {};
    for (int32_t s = vectors[v].first_step; s < vectors[v + 1].first_step; ++s) {
      const __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(steps[s].index));
      for (int p = 0; p < pixels; ++p) {
        const __m128i source = _mm_loadu_si128(reinterpret_cast<const __m128i*>(input + p * bytes + steps[s].source));
        result[p] = _mm256_or_si256(result[p], _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(source), index));
      }
    }
    for (int p = 0; p < pixels; ++p)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(output + p * bytes + target), result[p]);
#else
    for (int32_t s = vectors[v].first_step; s < vectors[v + 1].first_step; ++s)
      for (int p = 0; p < pixels; ++p)
        for (int i = 0; i < shuffle_width; ++i)
          if (steps[s].index[i] < 16) output[p * bytes + target + i] = input[p * bytes + steps[s].source + steps[s].index[i]];
#endif
  }
}

}  // namespace

void copy_runs(const char* input, char* output, const int64_t* order, int64_t runs, int64_t bytes, int64_t begin,
               int64_t end) {
  int64_t run = begin % runs;
  const char* group = input + (begin - run) * bytes;
  for (int64_t i = begin; i < end; ++i) {
    copy(output + i * bytes, group + order[run] * bytes, bytes);
    if (++run == runs) {
      run = 0;
      group += runs * bytes;
    }
  }
}

void shuffle_pixels(const char* input, char* output, const ShuffleVector* vectors, int64_t count,
                    const ShuffleStep* steps, int64_t bytes, int64_t begin, int64_t end) {
  constexpr int together = 8;
  int64_t pixel = begin;
  for (; pixel + together <= end; pixel += together)
    shuffle<together>(input + pixel * bytes, output + pixel * bytes, vectors, count, steps, bytes);
  for (; pixel < end; ++pixel)
    shuffle<1>(input + pixel * bytes, output + pixel * bytes, vectors, count, steps, bytes);
}

}  // namespace partnas::PARTNAS_CAPABILITY
