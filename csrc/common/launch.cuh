// What every kernel file is written in: launches, 16-byte vectors of any storage type, asynchronous copies, warp sums.
//
// Under nvcc these are CUDA. Under -DPARTNAS_EMULATOR, tests/emulator/emulator.h stands in for CUDA's headers and
// defines PARTNAS_LAUNCH, PARTNAS_SHARED, PARTNAS_DYNAMIC_SHARED, copy_async_16, copy_async_commit and copy_async_wait.
#pragma once

#include <stdint.h>

#include "common/cuda.h"
#include "common/storage.h"

#if defined(PARTNAS_EMULATOR)
#include "emulator.h"

namespace partnas::cuda {
inline float exp2_fast(float x) { return exp2f(x); }
}  // namespace partnas::cuda

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace partnas::cuda {

template <typename... Parameters, typename... Arguments>
Status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_bytes, Stream stream,
              Arguments... arguments) {
  constexpr size_t without_asking = 48 << 10;
  if (dynamic_bytes > without_asking) {
    const auto refused = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              static_cast<int>(dynamic_bytes));
    if (refused != cudaSuccess) {
      cudaGetLastError();
      return refused;
    }
  }
  kernel<<<grid, block, dynamic_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return cudaGetLastError();
}

// 16 bytes from global to shared memory, or 16 zero bytes where `inside` is false; there after the wait and a barrier.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool inside = true) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(inside ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(shared) = inside ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most `pending` of the groups that this thread committed last are under way.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// 2^x in one instruction: 2 units in the last place, and 0 below 2^-126.
__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace partnas::cuda

// PARTNAS_LAUNCH(kernel<T, 4>, grid, block, dynamic bytes, stream, arguments...) is a Status.
#define PARTNAS_LAUNCH(...) ::partnas::cuda::launch(__VA_ARGS__)
#define PARTNAS_SHARED __shared__
// Declares `type* name`, the dynamic shared memory, 16-byte aligned.
#define PARTNAS_DYNAMIC_SHARED(type, name)                               \
  extern __shared__ __align__(16) unsigned char partnas_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(partnas_dynamic_shared)

#endif

namespace partnas::cuda {

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xffffffffu;

template <typename T>
constexpr int vector_of = 16 / static_cast<int>(sizeof(T));

// How 4 bytes of each storage type become floats, and floats become them.
template <typename T>
struct Word;

template <>
struct Word<float> {
  static __device__ __forceinline__ void unpack(unsigned word, float* to) { to[0] = __uint_as_float(word); }
  static __device__ __forceinline__ unsigned pack(const float* from) { return __float_as_uint(from[0]); }
};

template <>
struct Word<__nv_bfloat16> {
  static __device__ __forceinline__ void unpack(unsigned word, float* to) {
    to[0] = __uint_as_float(word << 16);
    to[1] = __uint_as_float(word & 0xffff0000u);
  }
  static __device__ __forceinline__ unsigned pack(const float* from) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(from[0], from[1]);
    return *reinterpret_cast<const unsigned*>(&pair);
  }
};

template <>
struct Word<__half> {
  static __device__ __forceinline__ void unpack(unsigned word, float* to) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
    to[0] = pair.x;
    to[1] = pair.y;
  }
  static __device__ __forceinline__ unsigned pack(const float* from) {
    const __half2 pair = __floats2half2_rn(from[0], from[1]);
    return *reinterpret_cast<const unsigned*>(&pair);
  }
};

template <typename T>
__device__ __forceinline__ void unpack(const uint4& vector, float (&to)[vector_of<T>]) {
  constexpr int n = vector_of<T> / 4;
  Word<T>::unpack(vector.x, to);
  Word<T>::unpack(vector.y, to + n);
  Word<T>::unpack(vector.z, to + 2 * n);
  Word<T>::unpack(vector.w, to + 3 * n);
}

template <typename T>
__device__ __forceinline__ uint4 pack(const float (&from)[vector_of<T>]) {
  constexpr int n = vector_of<T> / 4;
  return make_uint4(Word<T>::pack(from), Word<T>::pack(from + n), Word<T>::pack(from + 2 * n),
                    Word<T>::pack(from + 3 * n));
}

// 16 aligned bytes of memory that this kernel only reads. Take several before unpacking the first: they are then all
// under way at once.
__device__ __forceinline__ uint4 load_vector(const void* from) { return __ldg(static_cast<const uint4*>(from)); }
__device__ __forceinline__ void store_vector(void* to, const uint4& vector) { *static_cast<uint4*>(to) = vector; }

// The same in floats.
template <typename T>
__device__ __forceinline__ void load(const T* from, float (&to)[vector_of<T>]) {
  unpack<T>(load_vector(from), to);
}
template <typename T>
__device__ __forceinline__ void store(T* to, const float (&from)[vector_of<T>]) {
  store_vector(to, pack<T>(from));
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

// V neighbouring numbers as they are stored: 16 bytes, or one number where 16 bytes do not divide a row.
template <typename T, int V>
struct Pack {
  static_assert(V == vector_of<T>);
  uint4 raw;

  static __device__ __forceinline__ Pack zero() { return {make_uint4(0, 0, 0, 0)}; }
  static __device__ __forceinline__ Pack from(const T* memory) { return {load_vector(memory)}; }
  static __device__ __forceinline__ Pack of(const float (&numbers)[V]) { return {pack<T>(numbers)}; }
  __device__ __forceinline__ void get(float (&numbers)[V]) const { unpack<T>(raw, numbers); }
  __device__ __forceinline__ void put(T* memory) const { store_vector(memory, raw); }
};

template <typename T>
struct Pack<T, 1> {
  T raw;

  static __device__ __forceinline__ Pack zero() { return {from_float<T>(0.0f)}; }
  static __device__ __forceinline__ Pack from(const T* memory) { return {*memory}; }
  static __device__ __forceinline__ Pack of(const float (&numbers)[1]) { return {from_float<T>(numbers[0])}; }
  __device__ __forceinline__ void get(float (&numbers)[1]) const { numbers[0] = to_float(raw); }
  __device__ __forceinline__ void put(T* memory) const { *memory = raw; }
};

// In every lane of a whole warp, in one order for all.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(all_lanes, x, lanes);
  return x;
}

// job(T()) for the storage type that `storage` names; float64 has no kernels.
template <typename Job>
Status dispatch(Storage storage, const Job& job) {
  switch (storage) {
    case Storage::float32: return job(float());
    case Storage::bfloat16: return job(__nv_bfloat16());
    case Storage::float16: return job(__half());
    default: return invalid_value;
  }
}

// Where 16-byte vectors may be read and written: an address, or strides and sizes in bytes.
inline bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }
inline bool is_aligned(int64_t bytes) { return bytes % 16 == 0; }

template <typename A, typename B>
__host__ __device__ constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

}  // namespace partnas::cuda
