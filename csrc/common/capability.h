// The instruction sets that the CPU kernels are built for, and the one in use.
//
// Kernel files (csrc/cpu/*.cpp) are compiled once per instruction set, each time with PARTNAS_CAPABILITY naming the
// namespace that everything in them lives in. They include C headers and intrinsics only: an inline function of a C++
// header would be emitted with AVX-512 under a name that other files share, and the linker keeps just one of them.
#pragma once

#if defined(__x86_64__)
#define PARTNAS_FOR_EACH_CAPABILITY(_) _(baseline) _(avx2) _(avx512)
#else
#define PARTNAS_FOR_EACH_CAPABILITY(_) _(baseline)
#endif

namespace partnas {

enum class Capability { baseline, avx2, avx512 };

// The best set that the CPU has, or the lesser one that PARTNAS_CPU_CAPABILITY or set_cpu_capability asked for.
Capability capability();

}  // namespace partnas

// The function of that name in the namespace of the instruction set in use.
#if defined(__x86_64__)
#define PARTNAS_KERNEL(name)                                              \
  (::partnas::capability() == ::partnas::Capability::avx512 ? avx512::name \
   : ::partnas::capability() == ::partnas::Capability::avx2 ? avx2::name   \
                                                            : baseline::name)
#else
#define PARTNAS_KERNEL(name) (baseline::name)
#endif
