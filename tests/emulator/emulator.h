// CUDA for g++: a kernel file compiled with -DPARTNAS_EMULATOR runs on the CPU, each thread of a block a fiber.
//
// Blocks run one after the other, a thread until it waits for others. Which of those that may run goes next is the
// order that the harness chooses: whatever depends on it lacks a barrier. emulator.cpp says what is a fault.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

// Vector types.

#define PARTNAS_VECTOR(type, base, alignment, count) PARTNAS_VECTOR_##count(type##count, base, alignment)
#define PARTNAS_VECTOR_1(name, base, alignment) \
  struct name {                                 \
    base x;                                     \
  };                                            \
  inline name make_##name(base x) { return {x}; }
#define PARTNAS_VECTOR_2(name, base, alignment) \
  struct alignas(alignment) name {              \
    base x, y;                                  \
  };                                            \
  inline name make_##name(base x, base y) { return {x, y}; }
#define PARTNAS_VECTOR_3(name, base, alignment) \
  struct name {                                 \
    base x, y, z;                               \
  };                                            \
  inline name make_##name(base x, base y, base z) { return {x, y, z}; }
#define PARTNAS_VECTOR_4(name, base, alignment) \
  struct alignas(alignment) name {              \
    base x, y, z, w;                            \
  };                                            \
  inline name make_##name(base x, base y, base z, base w) { return {x, y, z, w}; }
#define PARTNAS_VECTORS(type, base)                                               \
  PARTNAS_VECTOR(type, base, sizeof(base), 1)                                     \
  PARTNAS_VECTOR(type, base, 2 * sizeof(base), 2)                                 \
  PARTNAS_VECTOR(type, base, sizeof(base), 3)                                     \
  PARTNAS_VECTOR(type, base, sizeof(base) < 4 ? 4 * sizeof(base) : std::size_t(16), 4)

PARTNAS_VECTORS(char, signed char)
PARTNAS_VECTORS(uchar, unsigned char)
PARTNAS_VECTORS(short, short)
PARTNAS_VECTORS(ushort, unsigned short)
PARTNAS_VECTORS(int, int)
PARTNAS_VECTORS(uint, unsigned)
PARTNAS_VECTORS(longlong, long long)
PARTNAS_VECTORS(ulonglong, unsigned long long)
PARTNAS_VECTORS(float, float)
PARTNAS_VECTORS(double, double)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Those of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

using Site = std::source_location;

enum class Collective { sync, shuffle, ballot };

// Called by threads that wait for others.
void block_barrier(const Site& site);
int block_vote(int predicate, const Site& site);  // how many are not zero
std::uint64_t warp_collective(Collective kind, unsigned mask, std::uint64_t value, int source, const Site& site);
int lane();

// Called by threads that do not.
void* dynamic_shared();
void copy_async(void* to, const void* from, int bytes, bool inside);
void copy_async_commit();
void copy_async_wait(int pending);
[[noreturn]] void fault(const char* what, const Site& site);
void touch(const void* address, std::size_t bytes, bool writes);
void touch_atomic(const void* address, std::size_t bytes);

using Body = void (*)(void*);
int launch(const char* text, dim3 grid, dim3 block, std::size_t dynamic_bytes, Body body, void* closure);

template <typename... Parameters, typename... Arguments>
int launch(const char* text, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t dynamic_bytes, void*,
           Arguments... arguments) {
  auto body = [&] { kernel(arguments...); };
  return launch(text, grid, block, dynamic_bytes, [](void* closure) { (*static_cast<decltype(body)*>(closure))(); },
                &body);
}

template <typename T>
std::uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T shuffle(unsigned mask, T value, int source, const Site& site) {
  const std::uint64_t bits = warp_collective(Collective::shuffle, mask, bits_of(value), source, site);
  T result;
  std::memcpy(&result, &bits, sizeof(T));
  return result;
}

}  // namespace emulator

#define PARTNAS_LAUNCH(...) ::emulator::launch(#__VA_ARGS__, __VA_ARGS__)
// One block runs at a time, so that its shared variables may be static ones; the harness finds them by their names in
// the compiled file, fills them before every block, and sees what lies outside them.
#define PARTNAS_SHARED static __attribute__((aligned(64)))
#define PARTNAS_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::emulator::dynamic_shared())

namespace partnas::cuda {

inline void copy_async_16(void* shared, const void* global, bool inside = true) {
  emulator::copy_async(shared, global, 16, inside);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int pending>
void copy_async_wait() {
  emulator::copy_async_wait(pending);
}

}  // namespace partnas::cuda

// Barriers, shuffles, votes.

inline void __syncthreads(const emulator::Site& site = emulator::Site::current()) { emulator::block_barrier(site); }
inline int __syncthreads_count(int predicate, const emulator::Site& site = emulator::Site::current()) {
  return emulator::block_vote(predicate, site);
}
inline int __syncthreads_or(int predicate, const emulator::Site& site = emulator::Site::current()) {
  return emulator::block_vote(predicate, site) > 0;
}
inline int __syncthreads_and(int predicate, const emulator::Site& site = emulator::Site::current()) {
  return emulator::block_vote(!predicate, site) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const emulator::Site& site = emulator::Site::current()) {
  emulator::warp_collective(emulator::Collective::sync, mask, 0, 0, site);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              const emulator::Site& site = emulator::Site::current()) {
  const int first = emulator::lane() & ~(width - 1);
  return emulator::shuffle(mask, value, first | (source & (width - 1)), site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 const emulator::Site& site = emulator::Site::current()) {
  const int lane = emulator::lane(), from = lane - static_cast<int>(delta);
  return emulator::shuffle(mask, value, from < (lane & ~(width - 1)) ? lane : from, site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   const emulator::Site& site = emulator::Site::current()) {
  const int lane = emulator::lane(), from = lane + static_cast<int>(delta);
  return emulator::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from, site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  const emulator::Site& site = emulator::Site::current()) {
  const int lane = emulator::lane(), from = lane ^ lanes;
  return emulator::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, const emulator::Site& site = emulator::Site::current()) {
  return static_cast<unsigned>(
      emulator::warp_collective(emulator::Collective::ballot, mask, predicate != 0, 0, site));
}
inline int __any_sync(unsigned mask, int predicate, const emulator::Site& site = emulator::Site::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, const emulator::Site& site = emulator::Site::current()) {
  return __ballot_sync(mask, predicate, site) == mask;
}

// Half precision: storage and conversions, no arithmetic.

struct alignas(2) __nv_bfloat16 {
  unsigned short bits;
};
struct alignas(2) __half {
  unsigned short bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
struct alignas(4) __half2 {
  __half x, y;
};
using __nv_half = __half;
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return {x}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short x) { return {x}; }

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (std::isnan(x)) return {0x7fff};
  const unsigned bits = __float_as_uint(x);
  return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return __floats2bfloat162_rn(x.x, x.y); }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return __floats2bfloat162_rn(x, x); }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {__bfloat162float(x.x), __bfloat162float(x.y)}; }
inline float __low2float(__nv_bfloat162 x) { return __bfloat162float(x.x); }
inline float __high2float(__nv_bfloat162 x) { return __bfloat162float(x.y); }

inline float __half2float(__half x) {
  const unsigned sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31, mantissa = x.bits & 0x3ff;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
  const float magnitude = exponent ? std::ldexp(static_cast<float>(mantissa | 0x400), static_cast<int>(exponent) - 25)
                                   : std::ldexp(static_cast<float>(mantissa), -24);
  return sign ? -magnitude : magnitude;
}
inline __half __float2half_rn(float x) {
  if (std::isnan(x)) return {0x7fff};
  const unsigned short sign = __float_as_uint(x) >> 16 & 0x8000;
  const float magnitude = std::fabs(x);
  if (magnitude >= 65520.f) return {static_cast<unsigned short>(sign | 0x7c00)};
  // The last bit kept is worth 2^step; dividing by it is exact, and nearbyint rounds to even.
  const int step = (magnitude < 0x1p-14f ? -14 : std::ilogb(magnitude)) - 10;
  const auto kept = static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, -step)));
  return {static_cast<unsigned short>(sign | ((static_cast<unsigned>(step + 24) << 10) + kept))};
}
inline __half __float2half(float x) { return __float2half_rn(x); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline __half2 __float22half2_rn(float2 x) { return __floats2half2_rn(x.x, x.y); }
inline __half2 __float2half2_rn(float x) { return __floats2half2_rn(x, x); }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline float2 __half22float2(__half2 x) { return {__half2float(x.x), __half2float(x.y)}; }
inline float __low2float(__half2 x) { return __half2float(x.x); }
inline float __high2float(__half2 x) { return __half2float(x.y); }

// Memory.

template <typename T>
T __ldg(const T* from) {
  return *from;
}
template <typename T>
T __ldcg(const T* from) {
  return *from;
}
template <typename T>
T __ldcs(const T* from) {
  return *from;
}
template <typename T>
T __ldca(const T* from) {
  return *from;
}
template <typename T>
void __stcs(T* to, T value) {
  *to = value;
}
template <typename T>
void __stcg(T* to, T value) {
  *to = value;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap(const emulator::Site& site = emulator::Site::current()) {
  emulator::fault("__trap", site);
}

#define PARTNAS_ATOMIC(name, ...)                                                      \
  template <typename T>                                                                \
  __attribute__((no_sanitize("thread"))) T name(T* address, std::type_identity_t<T> value) { \
    emulator::touch_atomic(address, sizeof(T));                                        \
    const T before = *address;                                                         \
    *address = __VA_ARGS__;                                                            \
    return before;                                                                     \
  }
PARTNAS_ATOMIC(atomicAdd, before + value)
PARTNAS_ATOMIC(atomicSub, before - value)
PARTNAS_ATOMIC(atomicMax, before < value ? value : before)
PARTNAS_ATOMIC(atomicMin, value < before ? value : before)
PARTNAS_ATOMIC(atomicExch, value)
PARTNAS_ATOMIC(atomicAnd, before& value)
PARTNAS_ATOMIC(atomicOr, before | value)
PARTNAS_ATOMIC(atomicXor, before ^ value)
PARTNAS_ATOMIC(atomicInc, before >= value ? 0 : before + 1)
PARTNAS_ATOMIC(atomicDec, before == 0 || before > value ? value : before - 1)
template <typename T>
__attribute__((no_sanitize("thread"))) T atomicCAS(T* address, std::type_identity_t<T> compare,
                                                   std::type_identity_t<T> value) {
  emulator::touch_atomic(address, sizeof(T));
  const T before = *address;
  if (before == compare) *address = value;
  return before;
}

// Arithmetic. <cmath> brings fmaf, expf, exp2f, fmaxf and their like.

#define PARTNAS_MIN_MAX(T)                           \
  inline T min(T a, T b) { return b < a ? b : a; }   \
  inline T max(T a, T b) { return a < b ? b : a; }
PARTNAS_MIN_MAX(int)
PARTNAS_MIN_MAX(unsigned)
PARTNAS_MIN_MAX(long)
PARTNAS_MIN_MAX(unsigned long)
PARTNAS_MIN_MAX(long long)
PARTNAS_MIN_MAX(unsigned long long)
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

inline float rsqrtf(float x) { return static_cast<float>(1 / std::sqrt(static_cast<double>(x))); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return std::fmin(std::fmax(x, 0.f), 1.f); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(std::uint64_t(a) * b >> 32); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> 4 * i & 15;
    unsigned byte = bytes >> 8 * (pick & 7) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * i;
  }
  return result;
}

// The few calls of the runtime that a launcher may make: an H100's answers.

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
using cudaStream_t = void*;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 132 : 227 << 10;
  return cudaSuccess;
}
