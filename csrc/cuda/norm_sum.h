// Launchers of norm_stats, norm_sum and its backward on a GPU. Maps are channels-last: `rows` pixels of `channels`
// numbers. Lists are lists on the host, of pointers on the device; statistics, weights and sums are on the device.
#pragma once

#include <stdint.h>

#include "common/cuda.h"
#include "common/storage.h"

namespace partnas::cuda {

// Maps and identities that one call takes: their pointers are arguments of the kernel.
constexpr int most_branches = 120;

// statistics [K, 2, C] of maps of rows[k] rows; scratch of norm_stats_scratch floats.
int64_t norm_stats_scratch(Storage storage, const int64_t* rows, int maps, int64_t channels);
Status norm_stats(Storage storage, const void* const* maps, const int64_t* rows, int count, int64_t channels,
                  float* scratch, float* statistics, Stream stream);

// inputs: the maps, then the identities; statistics [K, 2, C], weights [K, C], identity_weights [L], shift [C] or null.
Status norm_sum(Storage storage, const void* const* inputs, int maps, int identities, const float* statistics,
                const float* weights, const float* identity_weights, const float* shift, int64_t rows, int64_t channels,
                float eps, void* output, Stream stream);

// sums [1 + K, C] of the gradient and of gradient * (map - mean), dots [L] of gradient * identity; scratch of
// norm_sum_reduce_scratch floats.
int64_t norm_sum_reduce_scratch(Storage storage, int maps, int identities, int64_t rows, int64_t channels);
Status norm_sum_reduce(Storage storage, const void* gradient, const void* const* inputs, int maps, int identities,
                       const float* statistics, int64_t rows, int64_t channels, float* scratch, float* sums,
                       float* dots, Stream stream);

// One gradient each, of the maps that `wanted` gives the numbers of, then of the wanted identities. maps: the wanted
// ones; means [1 + K, C].
Status norm_sum_backward(Storage storage, const void* gradient, const void* const* maps, const int64_t* wanted,
                         int wanted_count, const int64_t* wanted_identities, int wanted_identities_count,
                         const float* statistics, const float* weights, const float* means,
                         const float* identity_weights, int64_t rows, int64_t channels, float eps,
                         void* const* gradients, Stream stream);

Facts norm_sum_facts();

}  // namespace partnas::cuda
