// Defines functions of vectors: square root, a multiply-add that is always fused, floor, logarithm.
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>

#include "cpu/simd/vector.h"

namespace jgd::cpu::JGD_ISA {

template <typename V>
inline V square_root(V a) {
#if JGD_AVX512
  // Not _mm512_sqrt_ps, about which GCC 12 warns (bug 105593).
  if constexpr (sizeof(a[0]) == 4) return (V)_mm512_maskz_sqrt_ps(0xffff, (__m512)a);
  if constexpr (sizeof(a[0]) == 8) return (V)_mm512_maskz_sqrt_pd(0xff, (__m512d)a);
#elif JGD_AVX2
  if constexpr (sizeof(a[0]) == 4) return (V)_mm256_sqrt_ps((__m256)a);
  if constexpr (sizeof(a[0]) == 8) return (V)_mm256_sqrt_pd((__m256d)a);
#elif defined(__SSE2__)
  if constexpr (sizeof(a[0]) == 4) return (V)_mm_sqrt_ps((__m128)a);
  if constexpr (sizeof(a[0]) == 8) return (V)_mm_sqrt_pd((__m128d)a);
#elif defined(__aarch64__)
  if constexpr (sizeof(a[0]) == 4) return (V)vsqrtq_f32((float32x4_t)a);
  if constexpr (sizeof(a[0]) == 8) return (V)vsqrtq_f64((float64x2_t)a);
#else
  for (size_t i = 0; i < sizeof(V) / sizeof(a[0]); ++i) a[i] = std::sqrt(a[i]);
  return a;
#endif
}

// a * b + c rounded once, whatever it costs, for sums that cancel. In double a product of floats is
// exact and rounding the sum twice loses at most half a unit in the last place.
template <typename V>
inline V exact_fma(V a, V b, V c) {
#if JGD_AVX512 || JGD_AVX2 || defined(__aarch64__)
  return fma(a, b, c);
#else
  for (size_t i = 0; i < sizeof(V) / sizeof(a[0]); ++i) {
    if constexpr (sizeof(a[0]) == 4) {
      c[i] = static_cast<float>(static_cast<double>(a[i]) * b[i] + c[i]);
    } else {
      c[i] = std::fma(a[i], b[i], c[i]);
    }
  }
  return c;
#endif
}

// The number whose low bits count whole units: adding it rounds to a whole number.
template <typename T>
inline constexpr T kWhole = sizeof(T) == 4 ? T(8388608) : T(4503599627370496);

template <typename V>
inline V round_down(V a) {
#if JGD_AVX512
  if constexpr (sizeof(a[0]) == 4) return (V)_mm512_floor_ps((__m512)a);
  if constexpr (sizeof(a[0]) == 8) return (V)_mm512_floor_pd((__m512d)a);
#elif JGD_AVX2
  if constexpr (sizeof(a[0]) == 4) return (V)_mm256_floor_ps((__m256)a);
  if constexpr (sizeof(a[0]) == 8) return (V)_mm256_floor_pd((__m256d)a);
#elif defined(__aarch64__)
  if constexpr (sizeof(a[0]) == 4) return (V)vrndmq_f32((float32x4_t)a);
  if constexpr (sizeof(a[0]) == 8) return (V)vrndmq_f64((float64x2_t)a);
#else
  using T = std::decay_t<decltype(a[0])>;
  using U = typename Simd<T>::U;
  const V whole = splat(kWhole<T>);
  const U sign = (U)splat(T(-0.0));
  const V size = absolute(a);
  const V nearest = (V)((U)((size + whole) - whole) | ((U)a & sign));
  const V down = select(less(a, nearest), nearest - T(1), nearest);
  return select(less(size, whole), down, a);  // larger values are whole, or NaN
#endif
}

// atanh(s) = s P(s^2) of a logarithm to base 2, for |s| <= (sqrt(2) - 1) / (sqrt(2) + 1): minimax
// polynomials (Remez exchange on the relative error), good to 7e-10 and 1.2e-18.
inline Simd<float>::V atanh_over_s(Simd<float>::V z) {
  Simd<float>::V p = splat(0.431737900672530930f);
  p = fma(p, z, splat(0.576714309560458149f));
  p = fma(p, z, splat(0.961798848299085526f));
  return fma(p, z, splat(2.88539007978811927f));
}

inline Simd<double>::V atanh_over_s(Simd<double>::V z) {
  Simd<double>::V p = splat(0.2136730501877293);
  p = fma(p, z, splat(0.220911649392248128));
  p = fma(p, z, splat(0.262334409881225606));
  p = fma(p, z, splat(0.32059853377650045));
  p = fma(p, z, splat(0.412198585852472689));
  p = fma(p, z, splat(0.577078016345464185));
  p = fma(p, z, splat(0.961796693925989831));
  return fma(p, z, splat(2.88539008177792681));
}

// log2(x) = k + P(s^2) s for x = 2^k m with m in [sqrt(1/2), sqrt(2)) and s = (m - 1) / (m + 1).
// The relative error is below 2.5 eps (tests/cpp/simd/pack_test.cc) for positive normal x. Infinity
// and NaN give themselves. The result for any other x is unspecified but computed without a trap.
template <typename V>
inline V logarithm(V x) {
  using T = std::decay_t<decltype(x[0])>;
  using U = typename Simd<T>::U;
  constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
  constexpr int kBias = sizeof(T) == 4 ? 127 : 1023;
  const U bias = (U{} + kBias) << kMantissa;
  const U biased = ((U)x - (U)splat(T(0.70710678118654752440)) + bias) >> kMantissa;
  const V k = (V)(biased + (U)splat(kWhole<T>)) - (kWhole<T> + T(kBias));
  const V m = (V)((U)x + bias - (biased << kMantissa));
  const V s = (m - T(1)) / (m + T(1));
  const V result = fma(s, atanh_over_s(s * s), k);
  return select(less(x, splat(T(HUGE_VAL))), result, x);
}

}  // namespace jgd::cpu::JGD_ISA
