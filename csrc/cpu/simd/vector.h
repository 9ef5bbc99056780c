// Defines the vectors of the instruction set that a file is compiled for: the widest ones, as
// vector extensions of the compiler, and the few operations that the extensions lack.
//
// The files of cpu/kernels are compiled once per instruction set. Everything in cpu/simd is in a
// namespace of its own for each, JGD_ISA, so that the linker never merges the code of two
// instruction sets.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace jgd::cpu::JGD_ISA {

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define JGD_AVX512 1
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__) && defined(__FMA__)
#define JGD_AVX2 1
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif
#if JGD_AVX512
inline constexpr bool kMaskIsBits = true;
#else
inline constexpr bool kMaskIsBits = false;
#endif

// V holds numbers, Unaligned is V at any address, I and U hold integers of the same width, and M is
// a mask with one bit or one full lane for each number.
template <typename T>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int kLanes = kVectorBytes / 4;
  typedef float V __attribute__((vector_size(kVectorBytes), may_alias));
  typedef float Unaligned __attribute__((vector_size(kVectorBytes), may_alias, aligned(4)));
  typedef int32_t I __attribute__((vector_size(kVectorBytes), may_alias));
  typedef uint32_t U __attribute__((vector_size(kVectorBytes), may_alias));
#if JGD_AVX512
  using M = uint32_t;
#else
  using M = I;
#endif
};

template <>
struct Simd<double> {
  static constexpr int kLanes = kVectorBytes / 8;
  typedef double V __attribute__((vector_size(kVectorBytes), may_alias));
  typedef double Unaligned __attribute__((vector_size(kVectorBytes), may_alias, aligned(8)));
  typedef int64_t I __attribute__((vector_size(kVectorBytes), may_alias));
  typedef uint64_t U __attribute__((vector_size(kVectorBytes), may_alias));
#if JGD_AVX512
  using M = uint32_t;
#else
  using M = I;
#endif
};

// The same number in every lane. Minus, because -0 - 0 is -0 and -0 + 0 is not.
template <typename T>
inline typename Simd<T>::V splat(T value) {
  return value - typename Simd<T>::V{};
}

// a * b + c, rounded once where the instruction set can do so. It is written out, never left to the
// compiler, because forward and backward must compute the very same exponent.
template <typename V>
inline V fma(V a, V b, V c) {
#if JGD_AVX512
  if constexpr (sizeof(a[0]) == 4) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  if constexpr (sizeof(a[0]) == 8) return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif JGD_AVX2
  if constexpr (sizeof(a[0]) == 4) return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  if constexpr (sizeof(a[0]) == 8) return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  if constexpr (sizeof(a[0]) == 4) {
    return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
  } else {
    return (V)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
  }
#else
  return a * b + c;
#endif
}

// Comparisons, which are false for NaN, selection by lane, and tests of a mask.
#if JGD_AVX512

inline uint32_t less_equal(Simd<float>::V a, Simd<float>::V b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ);
}
inline uint32_t less_equal(Simd<double>::V a, Simd<double>::V b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LE_OQ);
}
inline uint32_t less_equal(Simd<float>::I a, Simd<float>::I b) {
  return _mm512_cmple_epi32_mask((__m512i)a, (__m512i)b);
}
inline uint32_t less_equal(Simd<double>::I a, Simd<double>::I b) {
  return _mm512_cmple_epi64_mask((__m512i)a, (__m512i)b);
}
inline uint32_t less(Simd<float>::V a, Simd<float>::V b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
}
inline uint32_t less(Simd<double>::V a, Simd<double>::V b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ);
}
inline uint32_t equal(Simd<float>::V a, Simd<float>::V b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ);
}
inline uint32_t equal(Simd<double>::V a, Simd<double>::V b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ);
}
inline uint32_t greater(Simd<float>::I a, Simd<float>::I b) {
  return _mm512_cmpgt_epi32_mask((__m512i)a, (__m512i)b);
}
inline uint32_t greater(Simd<double>::I a, Simd<double>::I b) {
  return _mm512_cmpgt_epi64_mask((__m512i)a, (__m512i)b);
}
template <typename V>
inline V select(uint32_t mask, V a, V b) {
  if constexpr (sizeof(a[0]) == 4) {
    return (V)_mm512_mask_blend_epi32(static_cast<__mmask16>(mask), (__m512i)b, (__m512i)a);
  } else {
    return (V)_mm512_mask_blend_epi64(static_cast<__mmask8>(mask), (__m512i)b, (__m512i)a);
  }
}
inline bool any(uint32_t mask) { return mask != 0; }
inline uint32_t bits(uint32_t mask) { return mask; }

#else

template <typename V>
inline auto less_equal(V a, V b) {
  return a <= b;
}
template <typename V>
inline auto less(V a, V b) {
  return a < b;
}
template <typename V>
inline auto equal(V a, V b) {
  return a == b;
}
template <typename I>
inline auto greater(I a, I b) {
  return a > b;
}
template <typename M, typename V>
inline V select(M mask, V a, V b) {
  return mask ? a : b;
}
template <typename M>
inline uint32_t bits(M mask) {
#if JGD_AVX2
  if constexpr (sizeof(mask[0]) == 4) return _mm256_movemask_ps((__m256)mask);
  if constexpr (sizeof(mask[0]) == 8) return _mm256_movemask_pd((__m256d)mask);
#elif defined(__SSE2__)
  if constexpr (sizeof(mask[0]) == 4) return _mm_movemask_ps((__m128)mask);
  if constexpr (sizeof(mask[0]) == 8) return _mm_movemask_pd((__m128d)mask);
#else
  uint32_t result = 0;
  for (size_t i = 0; i < sizeof(M) / sizeof(mask[0]); ++i) result |= uint32_t(mask[i] & 1) << i;
  return result;
#endif
}
template <typename M>
inline bool any(M mask) {
#if defined(__SSE2__)
  return bits(mask) != 0;
#else
  uint64_t words[sizeof(M) / 8];
  std::memcpy(words, &mask, sizeof(M));
  uint64_t combined = 0;
  for (uint64_t word : words) combined |= word;
  return combined != 0;
#endif
}

#endif

template <typename V>
inline V absolute(V v) {
  using T = std::remove_reference_t<decltype(v[0])>;
  using U = typename Simd<T>::U;
  return (V)((U)v & ~(U)splat(T(-0.0)));
}

// The smaller, or larger, of the two; the bound where v is NaN.
template <typename V>
inline V minimum(V v, V bound) {
#if JGD_AVX512
  // With a mask of all lanes because GCC 12 warns about the plain functions (bug 105593).
  if constexpr (sizeof(v[0]) == 4) return (V)_mm512_maskz_min_ps(0xffff, (__m512)v, (__m512)bound);
  if constexpr (sizeof(v[0]) == 8) return (V)_mm512_maskz_min_pd(0xff, (__m512d)v, (__m512d)bound);
#elif JGD_AVX2
  if constexpr (sizeof(v[0]) == 4) return (V)_mm256_min_ps((__m256)v, (__m256)bound);
  if constexpr (sizeof(v[0]) == 8) return (V)_mm256_min_pd((__m256d)v, (__m256d)bound);
#elif defined(__SSE2__)
  if constexpr (sizeof(v[0]) == 4) return (V)_mm_min_ps((__m128)v, (__m128)bound);
  if constexpr (sizeof(v[0]) == 8) return (V)_mm_min_pd((__m128d)v, (__m128d)bound);
#else
  return select(less_equal(v, bound), v, bound);
#endif
}
template <typename V>
inline V maximum(V v, V bound) {
#if JGD_AVX512
  if constexpr (sizeof(v[0]) == 4) return (V)_mm512_maskz_max_ps(0xffff, (__m512)v, (__m512)bound);
  if constexpr (sizeof(v[0]) == 8) return (V)_mm512_maskz_max_pd(0xff, (__m512d)v, (__m512d)bound);
#elif JGD_AVX2
  if constexpr (sizeof(v[0]) == 4) return (V)_mm256_max_ps((__m256)v, (__m256)bound);
  if constexpr (sizeof(v[0]) == 8) return (V)_mm256_max_pd((__m256d)v, (__m256d)bound);
#elif defined(__SSE2__)
  if constexpr (sizeof(v[0]) == 4) return (V)_mm_max_ps((__m128)v, (__m128)bound);
  if constexpr (sizeof(v[0]) == 8) return (V)_mm_max_pd((__m128d)v, (__m128d)bound);
#else
  return select(less_equal(bound, v), v, bound);
#endif
}

// v, minimum(v, bound) or a * b in the lanes of the mask; 0 in the others, whatever v, a and b are.
template <typename M, typename V>
inline V masked(M mask, V v) {
#if JGD_AVX512
  if constexpr (sizeof(v[0]) == 4) return (V)_mm512_maskz_mov_ps(mask, (__m512)v);
  if constexpr (sizeof(v[0]) == 8) return (V)_mm512_maskz_mov_pd(mask, (__m512d)v);
#else
  return (V)((M)v & mask);
#endif
}
template <typename M, typename V>
inline V masked_minimum(M mask, V v, V bound) {
#if JGD_AVX512
  if constexpr (sizeof(v[0]) == 4) return (V)_mm512_maskz_min_ps(mask, (__m512)v, (__m512)bound);
  if constexpr (sizeof(v[0]) == 8) return (V)_mm512_maskz_min_pd(mask, (__m512d)v, (__m512d)bound);
#else
  return select(mask, minimum(v, bound), V{});
#endif
}
template <typename M, typename V>
inline V masked_product(M mask, V a, V b) {
#if JGD_AVX512
  if constexpr (sizeof(a[0]) == 4) return (V)_mm512_maskz_mul_ps(mask, (__m512)a, (__m512)b);
  if constexpr (sizeof(a[0]) == 8) return (V)_mm512_maskz_mul_pd(mask, (__m512d)a, (__m512d)b);
#else
  return select(mask, a * b, V{});
#endif
}

// Whether every lane of a mask of V is set.
template <typename T, typename M>
inline bool all_lanes(M mask) {
  return bits(mask) == (uint32_t{1} << Simd<T>::kLanes) - 1;
}

// The sum of the lanes, in a fixed order: the upper half is added to the lower until one is left.
template <typename T>
inline T sum(typename Simd<T>::V v) {
  T lanes[Simd<T>::kLanes];
  std::memcpy(lanes, &v, sizeof(v));
  for (int half = Simd<T>::kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// 2^x. The integer part goes into the exponent bits; the rest, f in [-1/2, 1/2], goes through a
// minimax polynomial (Remez exchange on the relative error). The relative error is below 2e-9 plus
// rounding in float (degree 6) and 4e-18 plus rounding in double (degree 11). Valid for |x| <= 126
// (float) or 1022 (double); outside, the result is unspecified but computed without a trap.
inline Simd<float>::V exp2(Simd<float>::V x) {
  using V = Simd<float>::V;
  using U = Simd<float>::U;
  const V shifted = x + 12582912.0f;  // 1.5 * 2^23: rounds to an integer, kept in the low bits
  const V f = x - (shifted - 12582912.0f);
  V p = splat(1.53458121587401825e-4f);
  p = fma(p, f, splat(1.33999312094741405e-3f));
  p = fma(p, f, splat(9.61848895652279157e-3f));
  p = fma(p, f, splat(5.55032877699766376e-2f));
  p = fma(p, f, splat(2.40226468906395721e-1f));
  p = fma(p, f, splat(6.93147205737252675e-1f));
  p = fma(p, f, splat(1.0f));
  return (V)((U)p + ((U)shifted << 23));
}

inline Simd<double>::V exp2(Simd<double>::V x) {
  using V = Simd<double>::V;
  using U = Simd<double>::U;
  const V shifted = x + 6755399441055744.0;  // 1.5 * 2^52
  const V f = x - (shifted - 6755399441055744.0);
  V p = splat(4.43528094461033616e-10);
  p = fma(p, f, splat(7.07410562624565937e-9));
  p = fma(p, f, splat(1.01781980333285277e-7));
  p = fma(p, f, splat(1.3215433089594629e-6));
  p = fma(p, f, splat(1.52527334899608046e-5));
  p = fma(p, f, splat(1.5403530462514613e-4));
  p = fma(p, f, splat(1.33335581467899503e-3));
  p = fma(p, f, splat(9.61812910758833508e-3));
  p = fma(p, f, splat(5.55041086648199215e-2));
  p = fma(p, f, splat(2.40226506959101562e-1));
  p = fma(p, f, splat(6.9314718055994533e-1));
  p = fma(p, f, splat(1.0));
  return (V)((U)p + ((U)shifted << 52));
}

}  // namespace jgd::cpu::JGD_ISA
