// Launchers of the kernels in kernels.cu.
#pragma once

#include <cstdint>

#include "common/cuda.h"
#include "common/storage.h"

namespace partnas::cuda {

struct Shape {
  int64_t rows, columns;
};

Status convert(const void* x, void* y, int64_t n, Storage from, Storage to, Stream stream);
Status copy_vectors(const void* x, void* y, int64_t n, Storage storage, Stream stream);
Status reverse(const float* x, float* y, int64_t n, bool barrier, Stream stream);
Status reverse_dynamic(const float* x, float* y, int64_t n, bool barrier, Stream stream);
Status reverse_warp(const float* x, float* y, bool barrier, Stream stream);
Status rotate(const float* x, float* y, int64_t steps, bool second_barrier, Stream stream);
Status sum(const float* x, float* y, int64_t n, Stream stream);
Status shuffles(const int* x, int* y, int64_t threads, int64_t width, unsigned mask, Stream stream);
Status votes(const int* x, int* y, unsigned mask, Stream stream);
Status block_votes(const int* x, int* y, int64_t threads, Stream stream);
Status halves(const float* x, float* y, Stream stream);
Status histogram(const int* x, int* y, int64_t n, int64_t bins, bool atomic, Stream stream);
Status neighbours(const float* x, float* y, int64_t n, int64_t reach, Stream stream);
Status write_past(float* y, int64_t n, int64_t past, Stream stream);
Status index_past(float* y, int64_t index, bool shared, Stream stream);
Status read_misaligned(const float* x, float* y, int64_t offset, Stream stream);
Status divergent(float* y, int64_t threads, int64_t kind, Stream stream);
Status staged(const float* x, float* y, int64_t tiles, bool waits, bool barrier, Stream stream);
Status half_written(float* y, int64_t n, int64_t written, Stream stream);
Status between_blocks(float* y, Stream stream);
Status read_on_host(const float* x, float* y, Stream stream);
Status gather(const float* const* maps, float* y, int64_t count, int64_t n, bool on_device, Stream stream);
Status grid_of(int* y, int64_t x, int64_t z, Stream stream);
Status transpose(const Shape& shape, const float* x, float* y, Stream stream);
int64_t transpose_scratch(const Shape& shape, float share);
Status too_large(int64_t threads, int64_t bytes, Stream stream);

Facts kernels_facts();

}  // namespace partnas::cuda
