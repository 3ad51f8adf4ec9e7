// How a block shares out channels-last maps: each thread keeps to its channels and walks down the rows, a row being one
// pixel. A block takes a slice of the channels, so that maps of 16 and of 2048 channels make as good blocks.
// Included by kernel files only.
#pragma once

#include "common/launch.cuh"

namespace partnas::cuda {
namespace {

constexpr int threads = 256;

struct Slices {
  // Vectors of a row and of a slice; rows that a block takes at once; slices of a row.
  int vectors, width, rows, count;
};

inline Slices slices_of(int64_t channels, int vector, int most_channels) {
  const int vectors = channels > vector ? static_cast<int>(channels / vector) : 1, most = most_channels / vector;
  const int count = ceil_div(vectors, most), width = ceil_div(vectors, count);
  return {vectors, width, threads / width, count};
}

// How many rows of a map one strip has, `tiles` blocks taking a strip each: as few strips as give `many_blocks` blocks.
inline int strip_of(int64_t rows, int64_t tiles, int64_t many_blocks, int shortest, int longest) {
  const int64_t strip = ceil_div(rows, ceil_div(many_blocks, tiles));
  return strip < shortest ? shortest : strip > longest ? longest : static_cast<int>(strip);
}

// Where a thread stands in its block: a row, and a vector of the slice. `inside`: there is work for it.
struct Place {
  int row, lane, vector;
  bool inside;
};

__device__ __forceinline__ Place place_in(const Slices& slices, int slice) {
  const int thread = static_cast<int>(threadIdx.x), row = thread / slices.width, lane = thread % slices.width;
  const int vector = slice * slices.width + lane;
  return {row, lane, vector, row < slices.rows && vector < slices.vectors};
}

// job(integral constant) of the numbers that a thread takes at once.
template <int V>
struct Width {
  static constexpr int value = V;
};

template <typename T, typename Job>
Status with_width(bool vectors, const Job& job) {
  return vectors ? job(Width<vector_of<T>>()) : job(Width<1>());
}

template <typename T>
bool divides(int64_t channels) {
  return channels % vector_of<T> == 0;
}

// size(numbers that a thread takes at once), whichever of the two widths needs more: which one it will be depends on
// the addresses too.
template <typename Size>
int64_t larger_of_widths(Storage storage, const Size& size) {
  const int64_t narrow = size(1), wide = size(storage == Storage::float32 ? vector_of<float> : vector_of<__half>);
  return narrow > wide ? narrow : wide;
}

}  // namespace
}  // namespace partnas::cuda
