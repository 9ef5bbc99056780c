// Defines Pack, a vector with the operators and functions that math/ requires of a number
// (math/number.h). With T = Pack<float> the formulas run for Simd<float>::kLanes Gaussians at once.
//
// Each lane rounds like a scalar, except in log and log2. fma of doubles without the instruction is
// a library call for each lane.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/simd/math.h"
#include "cpu/simd/vector.h"
#include "math/number.h"

namespace jgd {
namespace cpu::JGD_ISA {

template <typename T>
struct Pack;
template <typename T>
struct PackInt;
template <typename T>
struct PackMask;

}  // namespace cpu::JGD_ISA

template <typename T>
struct NumberTraits<cpu::JGD_ISA::Pack<T>> {
  using Scalar = T;
  using Int = cpu::JGD_ISA::PackInt<T>;
  using Mask = cpu::JGD_ISA::PackMask<T>;
};

namespace cpu::JGD_ISA {

// One truth value for each lane.
template <typename T>
struct PackMask {
  using M = typename Simd<T>::M;
  M m;

  friend PackMask operator&&(PackMask a, PackMask b) { return {a.m & b.m}; }
  friend PackMask operator||(PackMask a, PackMask b) { return {a.m | b.m}; }
  friend PackMask operator!(PackMask a) { return {~a.m & all().m}; }
  friend bool none_of(PackMask a) { return !any(a.m); }
  friend bool all_of(PackMask a) { return none_of(!a); }

  bool operator[](int lane) const {
    if constexpr (kMaskIsBits) {
      return m >> lane & 1;
    } else {
      return m[lane] != 0;
    }
  }

  static PackMask all() {
    if constexpr (kMaskIsBits) {
      return {(M{1} << Simd<T>::kLanes) - 1};
    } else {
      return {~M{}};
    }
  }
};

// Integers as wide as T.
template <typename T>
struct PackInt {
  using I = typename Simd<T>::I;
  I i;

  PackInt() = default;
  PackInt(int value) : i(I{} + value) {}
  explicit PackInt(I value) : i(value) {}

  friend PackInt operator+(PackInt a, PackInt b) { return PackInt(a.i + b.i); }
  friend PackInt operator-(PackInt a, PackInt b) { return PackInt(a.i - b.i); }
  friend PackInt operator*(PackInt a, PackInt b) { return PackInt(a.i * b.i); }
  friend PackMask<T> operator<(PackInt a, PackInt b) { return {greater(b.i, a.i)}; }
  friend PackMask<T> operator>(PackInt a, PackInt b) { return {greater(a.i, b.i)}; }
  friend PackMask<T> operator<=(PackInt a, PackInt b) { return !(a > b); }
  friend PackMask<T> operator>=(PackInt a, PackInt b) { return !(a < b); }
  friend PackInt select(PackMask<T> mask, PackInt a, PackInt b) {
    return PackInt(JGD_ISA::select(mask.m, a.i, b.i));
  }

  int operator[](int lane) const { return static_cast<int>(i[lane]); }
};

template <typename T>
struct Pack {
  using V = typename Simd<T>::V;
  static constexpr int kLanes = Simd<T>::kLanes;
  V v;

  Pack() = default;
  template <typename S, typename = std::enable_if_t<std::is_arithmetic_v<S>>>
  Pack(S value) : v(splat(static_cast<T>(value))) {}
  explicit Pack(V value) : v(value) {}
  explicit Pack(PackInt<T> value) : v(__builtin_convertvector(value.i, V)) {}

  friend Pack operator+(Pack a, Pack b) { return Pack(a.v + b.v); }
  friend Pack operator-(Pack a, Pack b) { return Pack(a.v - b.v); }
  friend Pack operator*(Pack a, Pack b) { return Pack(a.v * b.v); }
  friend Pack operator/(Pack a, Pack b) { return Pack(a.v / b.v); }
  friend Pack operator-(Pack a) { return Pack(-a.v); }
  Pack& operator+=(Pack b) { return *this = *this + b; }
  Pack& operator-=(Pack b) { return *this = *this - b; }

  friend PackMask<T> operator<(Pack a, Pack b) { return {less(a.v, b.v)}; }
  friend PackMask<T> operator>(Pack a, Pack b) { return {less(b.v, a.v)}; }
  friend PackMask<T> operator<=(Pack a, Pack b) { return {less_equal(a.v, b.v)}; }
  friend PackMask<T> operator>=(Pack a, Pack b) { return {less_equal(b.v, a.v)}; }
  friend PackMask<T> operator==(Pack a, Pack b) { return {equal(a.v, b.v)}; }
  friend PackMask<T> operator!=(Pack a, Pack b) { return !(a == b); }
  friend Pack select(PackMask<T> mask, Pack a, Pack b) {
    return Pack(JGD_ISA::select(mask.m, a.v, b.v));
  }

  friend Pack abs(Pack a) { return Pack(absolute(a.v)); }
  friend PackMask<T> is_finite(Pack a) { return abs(a) < Pack(T(HUGE_VAL)); }
  friend Pack sqrt(Pack a) { return Pack(square_root(a.v)); }
  friend Pack fma(Pack a, Pack b, Pack c) { return Pack(exact_fma(a.v, b.v, c.v)); }
  friend Pack fmin(Pack a, Pack b) { return select(b <= a || a != a, b, a); }
  friend Pack fmax(Pack a, Pack b) { return select(a <= b || a != a, b, a); }
  friend Pack floor(Pack a) { return Pack(round_down(a.v)); }
  friend Pack ceil(Pack a) { return -floor(-a); }
  friend Pack log2(Pack a) { return Pack(logarithm(a.v)); }
  friend Pack log(Pack a) { return Pack(T(0.69314718055994530942)) * log2(a); }
  friend PackInt<T> to_int(Pack a) {
    return PackInt<T>(__builtin_convertvector(a.v, typename Simd<T>::I));
  }

  T operator[](int lane) const { return v[lane]; }
};

}  // namespace cpu::JGD_ISA
}  // namespace jgd
