// Vectors of float32 in the width of the instruction set, with loads and stores of the storage types.
// Included by kernel files only, inside no namespace; everything lands in partnas::PARTNAS_CAPABILITY.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace partnas::PARTNAS_CAPABILITY {
namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float Floats __attribute__((vector_size(lanes * 4)));
typedef int32_t Ints __attribute__((vector_size(lanes * 4)));
typedef uint32_t Words __attribute__((vector_size(lanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(lanes * 2)));

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

inline Floats broadcast(float value) { return Floats{} + value; }

inline Floats iota() {
  Floats result;
  for (int i = 0; i < lanes; ++i) result[i] = static_cast<float>(i);
  return result;
}

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// The larger of both; b where either is NaN.
inline Floats maximum(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

inline float sum(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#else
  float total = 0;
  for (int i = 0; i < lanes; ++i) total += v[i];
  return total;
#endif
}

inline float largest(Floats v) {
  float result = v[0];
  for (int i = 1; i < lanes; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

// --- loads -----------------------------------------------------------------------------------------------------------

inline Floats load(const float* from) {
  Floats v;
  memcpy(&v, from, sizeof(v));
  return v;
}

inline Floats load(const bfloat16* from) {
  Halves h;
  memcpy(&h, from, sizeof(h));
  return bit_cast<Floats>(__builtin_convertvector(h, Words) << 16);
}

inline Floats load(const float16* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  Halves h;
  memcpy(&h, from, sizeof(h));
  const Words w = __builtin_convertvector(h, Words);
  const Words magnitude = (w & 0x7fffu) << 13;
  // The exponent is 112 too small: multiplying puts it right for subnormals as well.
  Words v = bit_cast<Words>(bit_cast<Floats>(magnitude) * 0x1p112f);
  v |= (Words)(magnitude >= 0x0f800000u) & 0x7f800000u;
  return bit_cast<Floats>(v | ((w & 0x8000u) << 16));
#endif
}

// `count` < lanes elements, and `fill` in the other lanes.
template <typename T>
inline Floats load_some(const T* from, int64_t count, float fill) {
  T buffer[lanes] = {};
  memcpy(buffer, from, static_cast<size_t>(count) * sizeof(T));
  Floats v = load(buffer);
  for (int i = 0; i < lanes; ++i) v[i] = i < count ? v[i] : fill;
  return v;
}

// --- stores: round to nearest even -----------------------------------------------------------------------------------

inline void store(float* to, Floats v) { memcpy(to, &v, sizeof(v)); }

inline Halves rounded(Floats v, const bfloat16*) {
  const Words w = bit_cast<Words>(v);
  const Words sum = w + 0x7fffu + ((w >> 16) & 1u);
#if defined(__AVX512F__)
  const __m512i chosen =
      _mm512_mask_set1_epi32(bit_cast<__m512i>(sum), _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), 0x7fc00000);
  return bit_cast<Halves>(_mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
#else
  const Words nan = (Words)(v != v);
  return __builtin_convertvector(((sum & ~nan) | (0x7fc00000u & nan)) >> 16, Halves);
#endif
}

inline Halves rounded(Floats v, const float16*) {
#if defined(__AVX512F__)
  return bit_cast<Halves>(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return bit_cast<Halves>(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  const Words w = bit_cast<Words>(v);
  const Words sign = (w >> 16) & 0x8000u;
  const Words magnitude = w & 0x7fffffffu;
  // Normal results: rebias by -112 and round off 13 bits; subnormal ones: adding 0.5 lets the FPU align and round.
  const Words normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const Words subnormal = bit_cast<Words>(bit_cast<Floats>(magnitude) + 0.5f) - 0x3f000000u;
  const Words small = (Words)(magnitude < 0x38800000u);
  const Words overflow = (Words)(magnitude >= 0x477ff000u);
  const Words nan = (Words)(magnitude > 0x7f800000u);
  Words result = (subnormal & small) | (normal & ~small);
  result = (0x7c00u & overflow) | (result & ~overflow);
  result = (0x7e00u & nan) | (result & ~nan);
  return __builtin_convertvector(result | sign, Halves);
#endif
}

template <typename T>
inline void store(T* to, Floats v) {
  const Halves h = rounded(v, to);
  memcpy(to, &h, sizeof(h));
}

template <typename T>
inline void store_some(T* to, Floats v, int64_t count) {
  T buffer[lanes];
  store(buffer, v);
  memcpy(to, buffer, static_cast<size_t>(count) * sizeof(T));
}

// Stores past the caches: what is written this way is not read first. `to` is aligned to what is stored.
inline void stream(float* to, Floats v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, v);
#elif defined(__AVX2__)
  _mm256_stream_ps(to, v);
#elif defined(__SSE2__)
  _mm_stream_ps(to, v);
#else
  store(to, v);
#endif
}

template <typename T>
inline void stream(T* to, Floats v) {
#if defined(__AVX512F__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bit_cast<__m256i>(rounded(v, to)));
#elif defined(__AVX2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), bit_cast<__m128i>(rounded(v, to)));
#else
  store(to, v);
#endif
}

// Makes streamed stores visible to other threads.
inline void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// --- exponential -----------------------------------------------------------------------------------------------------

// e^x for x <= 88, as exact as if x had one more rounding; 0 below -87.7 (no subnormal results), NaN for NaN and inf.
inline Floats exponential(Floats x) {
  // Adding 1.5 * 2^23 rounds to an integer n, which is then also the low bits of the sum; the 127 more make these the
  // exponent field of 2^n. A fused multiply-add keeps the fraction exact where there is one.
  const float log2e = 1.44269504f;
  const float shifter = 12582912.0f + 127.0f;
  x = maximum(broadcast(-88.02f), x);
  const Floats shifted = x * log2e + shifter;
  const Floats n = shifted - shifter;
  const Floats f = x * log2e - n;
  // 2^f on [-1/2, 1/2], minimax with p(0) = 1: relative error 9.2e-8.
  Floats p = broadcast(1.326472731e-3f);
  p = p * f + 9.671512991e-3f;
  p = p * f + 5.550733581e-2f;
  p = p * f + 0.2402224243f;
  p = p * f + 0.6931470037f;
  p = p * f + 1.0f;
  return p * bit_cast<Floats>(bit_cast<Words>(shifted) << 23);
}

}  // namespace
}  // namespace partnas::PARTNAS_CAPABILITY
