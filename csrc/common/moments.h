// Adds up the statistics of a map's segments, for the files that face PyTorch.
#pragma once

#include "common/tensor.h"

namespace partnas {

// From (count, mean, sum of squared deviations) [segments, C, 3], segments `stride` doubles apart, mean and biased
// variance: statistics [2, C].
inline void finish_statistics(const double* moments, int64_t segments, int64_t stride, int64_t channels,
                              float* statistics) {
  for (int64_t c = 0; c < channels; ++c) {
    double count = 0, mean = 0, square = 0;
    for (int64_t s = 0; s < segments; ++s) {
      const double* m = moments + s * stride + 3 * c;
      if (m[0] == 0) continue;
      const double sum = count + m[0], d = m[1] - mean;
      mean += d * m[0] / sum;
      square += m[2] + d * d * count * m[0] / sum;
      count = sum;
    }
    statistics[c] = static_cast<float>(mean);
    statistics[channels + c] = count == 0 ? 0.0f : static_cast<float>(square < 0 ? 0 : square / count);
  }
}

}  // namespace partnas
