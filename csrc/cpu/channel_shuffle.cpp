// Channel permutation as copies of long runs, or as shuffles inside a pixel.
//
// Groups of channels are interleaved by transposing in registers, as fast as a copy. A shuffle treats every order alike:
// the group shuffle of g groups takes g steps a vector. From memory that is as fast as a copy, from the caches half as fast
// for g = 4; an element at a time (gather_pixels) is half of that again.
#include "cpu/channel_shuffle.h"

#include "cpu/vector.h"

namespace partnas::PARTNAS_CAPABILITY {
namespace {

constexpr int register_bytes = lanes * 4;
// A larger block than a register, or an array of them, the compiler keeps in memory as well: twice the stores.
using Block [[gnu::vector_size(register_bytes), gnu::aligned(1), gnu::may_alias]] = char;

inline Block load(const char* from) { return *reinterpret_cast<const Block*>(from); }
inline void store(char* to, Block block) { *reinterpret_cast<Block*>(to) = block; }

// libc's memcpy costs more to call than a run of a few hundred bytes takes to copy. It takes long runs: it goes backwards
// where loads would wait for the stores before them, those whose addresses end in the same 12 bits.
inline void copy(char* to, const char* from, int64_t bytes) {
  constexpr int64_t size = register_bytes, long_run = 2048;
  if (bytes < size || bytes >= long_run) {
    memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  const int64_t last = bytes - size;
  int64_t i = 0;
  // Many loads come before the stores that they might wait for.
  for (; i <= bytes - 4 * size; i += 4 * size) {
    const Block a = load(from + i), b = load(from + i + size);
    const Block c = load(from + i + 2 * size), d = load(from + i + 3 * size);
    store(to + i, a);
    store(to + i + size, b);
    store(to + i + 2 * size, c);
    store(to + i + 3 * size, d);
  }
  for (; i < last; i += size) store(to + i, load(from + i));
  store(to + last, load(from + last));
}

bool is_aligned(const char* to, int64_t bytes, int64_t alignment) {
  return reinterpret_cast<uintptr_t>(to) % static_cast<uintptr_t>(alignment) == 0 && bytes % alignment == 0;
}

// Past the caches: what is written this way is not read first. `to` is aligned to a block, `bytes` whole blocks.
inline void stream(char* to, const char* from, int64_t bytes) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < bytes; i += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#elif defined(__AVX2__)
  for (int64_t i = 0; i < bytes; i += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
#elif defined(__SSE2__)
  for (int64_t i = 0; i < bytes; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
#else
  copy(to, from, bytes);
#endif
}

template <typename Unit>
void gather(const char* input, char* output, const int32_t* source, int64_t units, int64_t begin, int64_t end) {
  constexpr int64_t size = sizeof(Unit);
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const char* from = input + pixel * units * size;
    char* to = output + pixel * units * size;
    for (int64_t i = 0; i < units; ++i) {
      Unit value;
      memcpy(&value, from + source[i] * size, sizeof(value));
      memcpy(to + i * size, &value, sizeof(value));
    }
  }
}

#if defined(__AVX2__)
struct Bytes {
  __m256i value{};

  static __m256i index(const ShuffleStep& step) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(step.index));
  }
  void add(const ShuffleStep&, __m256i index, const char* input) {
    const __m128i source = _mm_loadu_si128(reinterpret_cast<const __m128i*>(input));
    value = _mm256_or_si256(value, _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(source), index));
  }
  void store(char* output) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(output), value); }
  void stream(char* output) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(output), value); }
};

#if defined(__AVX512F__)
template <int unit>
struct Units {
  __m512i value{};

  static __m512i index(const ShuffleStep& step) { return _mm512_loadu_si512(step.index); }
  void add(const ShuffleStep& step, __m512i index, const char* input) {
    const __m512i source = _mm512_loadu_si512(input);
    value = unit == 4 ? _mm512_mask_permutexvar_epi32(value, static_cast<__mmask16>(step.mask), index, source)
                      : _mm512_mask_permutexvar_epi16(value, step.mask, index, source);
  }
  void store(char* output) const { _mm512_storeu_si512(output, value); }
  void stream(char* output) const { _mm512_stream_si512(reinterpret_cast<__m512i*>(output), value); }
};
#endif

// `together` blocks at once, so that each step's index is loaded once for all of them. As many streams of memory are more
// than the hardware foresees: the next blocks are asked for ahead.
template <typename Vector, int together, bool streams>
void shuffle(const char* input, char* output, const ShuffleVector* vectors, int64_t count, const ShuffleStep* steps,
             int64_t bytes) {
  const auto next = reinterpret_cast<uintptr_t>(input) + static_cast<uintptr_t>(together * bytes);
  for (int64_t v = 0; v < count; ++v) {
    const int64_t target = vectors[v].target;
    Vector result[together];
    for (int32_t s = vectors[v].first_step; s < vectors[v + 1].first_step; ++s) {
      const auto index = Vector::index(steps[s]);
      for (int b = 0; b < together; ++b) result[b].add(steps[s], index, input + b * bytes + steps[s].source);
    }
    for (int b = 0; b < together; ++b) {
      __builtin_prefetch(reinterpret_cast<const void*>(next + static_cast<uintptr_t>(b * bytes + target)), 0, 2);
      if (streams) {
        result[b].stream(output + b * bytes + target);
      } else {
        result[b].store(output + b * bytes + target);
      }
    }
  }
}

template <typename Vector, bool streams>
void shuffle_all(const char* input, char* output, const ShuffleVector* vectors, int64_t count, const ShuffleStep* steps,
                 int64_t bytes, int64_t begin, int64_t end) {
  constexpr int together = 8;
  int64_t block = begin;
  for (; block + together <= end; block += together)
    shuffle<Vector, together, streams>(input + block * bytes, output + block * bytes, vectors, count, steps, bytes);
  for (; block < end; ++block)
    shuffle<Vector, 1, streams>(input + block * bytes, output + block * bytes, vectors, count, steps, bytes);
  if (streams) finish_streams();
}
#endif

}  // namespace

void copy_runs(const char* input, char* output, const int64_t* order, int64_t runs, int64_t bytes, int64_t begin,
               int64_t end, bool streams) {
  streams = streams && is_aligned(output, bytes, register_bytes);
  int64_t run = begin % runs;
  const char* group = input + (begin - run) * bytes;
  // The hardware does not foresee in which order the runs are read: a page of them is asked for ahead.
  const int64_t page = 4096, asked = bytes < page ? bytes : page, ahead = page / asked;
  for (int64_t i = begin; i < end; ++i) {
    if (streams) {
      const int64_t later = (run + ahead) / runs * runs + order[(run + ahead) % runs];
      const auto source = reinterpret_cast<uintptr_t>(group) + static_cast<uintptr_t>(later * bytes);
      for (int64_t line = 0; line < asked; line += 64)
        __builtin_prefetch(reinterpret_cast<const void*>(source + static_cast<uintptr_t>(line)), 0, 2);
      stream(output + i * bytes, group + order[run] * bytes, bytes);
    } else {
      copy(output + i * bytes, group + order[run] * bytes, bytes);
    }
    if (++run == runs) {
      run = 0;
      group += runs * bytes;
    }
  }
  if (streams) finish_streams();
}

void gather_pixels(const char* input, char* output, const int32_t* source, int64_t units, int32_t unit, int64_t begin,
                   int64_t end) {
  switch (unit) {
    case 4: return gather<uint32_t>(input, output, source, units, begin, end);
    case 2: return gather<uint16_t>(input, output, source, units, begin, end);
    default: return gather<uint8_t>(input, output, source, units, begin, end);
  }
}

#if defined(__AVX2__)
namespace {

// The low and the high halves of two vectors, together.
inline void join_halves(__m256i a, __m256i b, __m256i& low, __m256i& high) {
  low = _mm256_permute2x128_si256(a, b, 0x20);
  high = _mm256_permute2x128_si256(a, b, 0x31);
}

// Half h of column k: number 4h + k of each of four rows that lie `stride` bytes apart.
inline void transpose_four(const char* rows, int64_t stride, __m256i (&columns)[4]) {
  __m256i row[4];
  for (int q = 0; q < 4; ++q) row[q] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + q * stride));
  const __m256i low01 = _mm256_unpacklo_epi32(row[0], row[1]), high01 = _mm256_unpackhi_epi32(row[0], row[1]);
  const __m256i low23 = _mm256_unpacklo_epi32(row[2], row[3]), high23 = _mm256_unpackhi_epi32(row[2], row[3]);
  columns[0] = _mm256_unpacklo_epi64(low01, low23);
  columns[1] = _mm256_unpackhi_epi64(low01, low23);
  columns[2] = _mm256_unpacklo_epi64(high01, high23);
  columns[3] = _mm256_unpackhi_epi64(high01, high23);
}

// Eight numbers of each of `groups` rows, in turn.
template <int groups>
inline void zip(const char* rows, int64_t stride, __m256i (&zipped)[groups]) {
  if constexpr (groups == 2) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + stride));
    join_halves(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b), zipped[0], zipped[1]);
  } else {
    __m256i first[4];
    transpose_four(rows, stride, first);
    if constexpr (groups == 4) {
      join_halves(first[0], first[1], zipped[0], zipped[2]);
      join_halves(first[2], first[3], zipped[1], zipped[3]);
    } else {
      __m256i second[4];
      transpose_four(rows + 4 * stride, stride, second);
      for (int k = 0; k < 4; ++k) join_halves(first[k], second[k], zipped[k], zipped[4 + k]);
    }
  }
}

template <int groups>
void interleave(const char* input, char* output, int64_t units, int64_t begin, int64_t end, bool streams) {
  constexpr int64_t width = 32, step = width / 4;
  const int64_t bytes = groups * units * 4;
  streams = streams && is_aligned(output, bytes, width) && units % step == 0;
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const char* from = input + pixel * bytes;
    char* to = output + pixel * bytes;
    const auto following = reinterpret_cast<uintptr_t>(from + bytes);
    for (int64_t next = 0; next < units; next += step) {
      // The last step may do units again that the one before has done.
      const int64_t j = next < units - step ? next : units - step;
      // As many streams of memory are more than the hardware foresees: the next pixel is asked for ahead.
      for (int64_t line = 0; streams && line < groups * width; line += 64)
        __builtin_prefetch(reinterpret_cast<const void*>(following + static_cast<uintptr_t>(j * groups * 4 + line)), 0, 2);
      __m256i zipped[groups];
      zip<groups>(from + j * 4, units * 4, zipped);
#pragma GCC unroll 8
      for (int k = 0; k < groups; ++k) {
        auto* at = reinterpret_cast<__m256i*>(to + j * groups * 4 + k * width);
        streams ? _mm256_stream_si256(at, zipped[k]) : _mm256_storeu_si256(at, zipped[k]);
      }
    }
  }
  if (streams) finish_streams();
}

}  // namespace

bool interleave_pixels(const char* input, char* output, int64_t groups, int64_t units, int64_t begin, int64_t end,
                       bool streams) {
  if (units < 8) return false;
  switch (groups) {
    case 2: interleave<2>(input, output, units, begin, end, streams); return true;
    case 4: interleave<4>(input, output, units, begin, end, streams); return true;
    case 8: interleave<8>(input, output, units, begin, end, streams); return true;
    default: return false;
  }
}
#else
bool interleave_pixels(const char*, char*, int64_t, int64_t, int64_t, int64_t, bool) { return false; }
#endif

#if defined(__AVX512F__)
ShuffleForm shuffle_form(int32_t unit) { return unit >= 2 ? ShuffleForm{unit, 64, 64} : ShuffleForm{1, 32, 16}; }
#elif defined(__AVX2__)
ShuffleForm shuffle_form(int32_t) { return {1, 32, 16}; }
#else
ShuffleForm shuffle_form(int32_t unit) { return {unit, 0, 0}; }
#endif

#if defined(__AVX2__)
void shuffle_blocks(const ShuffleForm& form, const char* input, char* output, const ShuffleVector* vectors,
                    int64_t count, const ShuffleStep* steps, int64_t bytes, int64_t begin, int64_t end, bool streams) {
  streams = streams && is_aligned(output, bytes, form.width);
  auto run = streams ? shuffle_all<Bytes, true> : shuffle_all<Bytes, false>;
#if defined(__AVX512F__)
  if (form.unit == 4) run = streams ? shuffle_all<Units<4>, true> : shuffle_all<Units<4>, false>;
  if (form.unit == 2) run = streams ? shuffle_all<Units<2>, true> : shuffle_all<Units<2>, false>;
#endif
  run(input, output, vectors, count, steps, bytes, begin, end);
}
#else
void shuffle_blocks(const ShuffleForm&, const char*, char*, const ShuffleVector*, int64_t, const ShuffleStep*, int64_t,
                    int64_t, int64_t, bool) {}
#endif

}  // namespace partnas::PARTNAS_CAPABILITY
