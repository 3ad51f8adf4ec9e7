// How kernels take a channels-last map: as rows of `length` elements, a whole number of pixels. Per-channel numbers come
// repeated along a row, with room for `room` of them, which is whole vectors.
#pragma once

#include <stdint.h>

namespace partnas {

struct RowShape {
  int64_t channels, length, room;
};

// Doubles of scratch for each number of a row's room that batch statistics need.
constexpr int64_t moments_scratch = 5;

}  // namespace partnas
