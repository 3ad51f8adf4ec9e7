// Loops over channels-last maps taken as rows of whole pixels, along which per-channel numbers repeat.
// Included by kernel files only, inside no namespace.
#pragma once

#include "cpu/vector.h"

namespace partnas::PARTNAS_CAPABILITY {
namespace {

// How to read and write a vector: all of it, or its first `count` elements.
struct Whole {
  template <typename T>
  Floats get(const T* from) const {
    return load(from);
  }
  template <typename T>
  void put(T* to, Floats v) const {
    store(to, v);
  }
};

struct Some {
  int64_t count;
  template <typename T>
  Floats get(const T* from) const {
    return load_some(from, count, 0.0f);
  }
  template <typename T>
  void put(T* to, Floats v) const {
    store_some(to, v, count);
  }
};

// f(offset, Whole or Some) for every vector of `count` elements.
template <typename F>
inline void for_vectors(int64_t count, const F& f) {
  const int64_t whole = count / lanes * lanes;
  for (int64_t i = 0; i < whole; i += lanes) f(i, Whole{});
  if (whole < count) f(whole, Some{count - whole});
}

template <int n>
struct Rows {
  static constexpr int count = n;
};

// f(offset, elements in a row, Rows<n>): four rows at a time, so that per-channel numbers are loaded once for them.
template <typename F>
inline void for_rows(int64_t elements, int64_t length, const F& f) {
  int64_t at = 0;
  for (; at + 4 * length <= elements; at += 4 * length) f(at, length, Rows<4>{});
  for (; at < elements; at += length) f(at, length < elements - at ? length : elements - at, Rows<1>{});
}

// Asks the second cache for what lies further on: rows taken four at a time, and maps taken in turns, are patterns that the
// hardware does not foresee. It doubles the speed of what does not fit the caches.
template <typename T>
inline void prefetch(const T* x) {
  __builtin_prefetch(reinterpret_cast<const char*>(x) + 16384, 0, 2);
}

// Whether every whole vector of rows of `length` elements from there on is aligned.
inline bool can_stream(const void* to, int64_t length) {
  return length % lanes == 0 && reinterpret_cast<uintptr_t>(to) % (lanes * sizeof(float)) == 0;
}

// The same for stores that leave a row before its end: each must fill its cache lines, as half a line that is streamed is
// read and written again. `elements` of the row are written at once.
inline bool can_stream_blocks(const void* to, int64_t length, int64_t elements) {
  constexpr int64_t line = 64 / sizeof(float);
  return length % line == 0 && elements % line == 0 && reinterpret_cast<uintptr_t>(to) % 64 == 0;
}

template <bool streams, typename T, typename Part>
inline void write(T* to, Floats v, Part part) {
  if constexpr (streams && sizeof(Part) == sizeof(Whole)) {
    stream(to, v);
  } else {
    part.put(to, v);
  }
}

// Elements of a run of rows that stays in the first cache: at least `rows` of them, a multiple of four.
inline int64_t chunk_of(int64_t length, int64_t elements, int64_t rows) {
  const int64_t fitting = elements / (length > 0 ? length : 1) / 4 * 4;
  return length * (fitting > rows ? fitting : rows);
}

template <typename F>
inline void for_chunks(int64_t begin, int64_t end, int64_t chunk, const F& f) {
  for (int64_t at = begin; at < end; at += chunk) f(at, chunk < end - at ? chunk : end - at);
}

template <typename F>
inline void with_storage(Storage storage, const F& f) {
  switch (storage) {
    case Storage::float32: return f(static_cast<float*>(nullptr));
    case Storage::bfloat16: return f(static_cast<bfloat16*>(nullptr));
    case Storage::float16: return f(static_cast<float16*>(nullptr));
    case Storage::float64: return;
  }
}

}  // namespace
}  // namespace partnas::PARTNAS_CAPABILITY
