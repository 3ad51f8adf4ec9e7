// The storage types of the floating-point operators; float32 accumulates for all but float64.
#pragma once

namespace partnas {

enum class Storage { float64, float32, bfloat16, float16 };

}  // namespace partnas
