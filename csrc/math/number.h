// Defines the operations that the formulas require of a number.
//
// T is a scalar here, or a vector of numbers with operators and functions of the same names
// (cpu/simd/pack.h), which are found through its namespace. Decisions are written so that they
// serve both: a comparison gives a Mask, which && || ! combine, and select picks by lane. Code may
// return early only where none_of says that no lane goes on. For a scalar all of this is a plain
// branch.
#pragma once

#include <type_traits>

#include "math/hd.h"

namespace jgd {

template <typename T>
struct NumberTraits {
  using Scalar = T;
  using Int = int;
  using Mask = bool;
};

template <typename T>
using Scalar = typename NumberTraits<T>::Scalar;  // the type of one lane
template <typename T>
using Int = typename NumberTraits<T>::Int;  // as many integers
template <typename T>
using Mask = typename NumberTraits<T>::Mask;  // as many answers

// Both values are computed, unlike those of ?:.
template <typename T>
JGD_HD inline std::enable_if_t<std::is_arithmetic_v<T>, T> select(bool mask, T a, T b) {
  return mask ? a : b;
}

JGD_HD inline bool none_of(bool mask) { return !mask; }

template <typename T>
JGD_HD inline T min(T a, T b) {
  return select(b < a, b, a);
}

// max(NaN, b) is NaN.
template <typename T>
JGD_HD inline T max(T a, T b) {
  return select(a < b, b, a);
}

template <typename T>
JGD_HD inline bool is_finite(T a) {
  return std::isfinite(a);
}

template <typename T>
JGD_HD inline T abs(T a) {
  return std::abs(a);
}

template <typename T>
JGD_HD inline T sqrt(T a) {
  return std::sqrt(a);
}

// a b + c, rounded once.
template <typename T>
JGD_HD inline T fma(T a, T b, T c) {
  return std::fma(a, b, c);
}

template <typename T>
JGD_HD inline T log(T a) {
  return std::log(a);
}

template <typename T>
JGD_HD inline T log2(T a) {
  return std::log2(a);
}

template <typename T>
JGD_HD inline T floor(T a) {
  return std::floor(a);
}

template <typename T>
JGD_HD inline T ceil(T a) {
  return std::ceil(a);
}

// The other value where one is NaN.
template <typename T>
JGD_HD inline T fmin(T a, T b) {
  return std::fmin(a, b);
}

template <typename T>
JGD_HD inline T fmax(T a, T b) {
  return std::fmax(a, b);
}

// The whole part; the value must lie in the range of Int.
template <typename T>
JGD_HD inline int to_int(T a) {
  return static_cast<int>(a);
}

}  // namespace jgd
