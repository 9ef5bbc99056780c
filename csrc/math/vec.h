// Defines the small vectors and matrices that the formulas pass by value, and their arithmetic.
//
// Sym2 and Sym3 hold the unique entries of a symmetric matrix. The cotangent of such a value is the
// derivative with respect to each stored entry as a free variable: an off-diagonal entry counts
// both places where it stands. In matrix form it is G with G_ii = v_ii and G_ij = v_ij / 2.
#pragma once

#include "math/hd.h"
#include "math/number.h"

namespace jgd {

template <typename T>
struct Vec2 {
  T x, y;
};

template <typename T>
struct Vec3 {
  T x, y, z;
};

template <typename T>
struct Quat {
  T w, x, y, z;
};

// Row-major 3x3 matrix.
template <typename T>
struct Mat3 {
  T m[9];
  JGD_HD T& operator()(int i, int j) { return m[3 * i + j]; }
  JGD_HD const T& operator()(int i, int j) const { return m[3 * i + j]; }
};

template <typename T>
struct Sym2 {
  T xx, xy, yy;
};

template <typename T>
struct Sym3 {
  T xx, xy, xz, yy, yz, zz;
};

template <typename T>
JGD_HD inline Mask<T> is_finite(const Vec2<T>& a) {
  return is_finite(a.x) && is_finite(a.y);
}

template <typename T>
JGD_HD inline Mask<T> is_finite(const Vec3<T>& a) {
  return is_finite(a.x) && is_finite(a.y) && is_finite(a.z);
}

template <typename T>
JGD_HD inline Mask<T> is_finite(const Quat<T>& a) {
  return is_finite(a.w) && is_finite(a.x) && is_finite(a.y) && is_finite(a.z);
}

template <typename T>
JGD_HD inline Mask<T> is_finite(const Sym2<T>& a) {
  return is_finite(a.xx) && is_finite(a.xy) && is_finite(a.yy);
}

template <typename T>
JGD_HD inline Mask<T> is_finite(const Sym3<T>& a) {
  return is_finite(a.xx) && is_finite(a.xy) && is_finite(a.xz) && is_finite(a.yy) &&
         is_finite(a.yz) && is_finite(a.zz);
}

// Selects each entry by lane.
template <typename T>
JGD_HD inline Vec2<T> select(Mask<T> mask, const Vec2<T>& a, const Vec2<T>& b) {
  return {select(mask, a.x, b.x), select(mask, a.y, b.y)};
}

template <typename T>
JGD_HD inline Vec3<T> select(Mask<T> mask, const Vec3<T>& a, const Vec3<T>& b) {
  return {select(mask, a.x, b.x), select(mask, a.y, b.y), select(mask, a.z, b.z)};
}

template <typename T>
JGD_HD inline Quat<T> select(Mask<T> mask, const Quat<T>& a, const Quat<T>& b) {
  return {select(mask, a.w, b.w), select(mask, a.x, b.x), select(mask, a.y, b.y),
          select(mask, a.z, b.z)};
}

template <typename T>
JGD_HD inline Sym2<T> select(Mask<T> mask, const Sym2<T>& a, const Sym2<T>& b) {
  return {select(mask, a.xx, b.xx), select(mask, a.xy, b.xy), select(mask, a.yy, b.yy)};
}

template <typename T>
JGD_HD inline Sym3<T> select(Mask<T> mask, const Sym3<T>& a, const Sym3<T>& b) {
  return {select(mask, a.xx, b.xx), select(mask, a.xy, b.xy), select(mask, a.xz, b.xz),
          select(mask, a.yy, b.yy), select(mask, a.yz, b.yz), select(mask, a.zz, b.zz)};
}

template <typename T>
JGD_HD inline Vec2<T> operator+(const Vec2<T>& a, const Vec2<T>& b) {
  return {a.x + b.x, a.y + b.y};
}

template <typename T>
JGD_HD inline Vec3<T> operator+(const Vec3<T>& a, const Vec3<T>& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}

template <typename T>
JGD_HD inline Vec3<T> operator-(const Vec3<T>& a, const Vec3<T>& b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}

template <typename T>
JGD_HD inline Vec3<T> operator*(T s, const Vec3<T>& a) {
  return {s * a.x, s * a.y, s * a.z};
}

template <typename T>
JGD_HD inline Vec3<T> operator/(const Vec3<T>& a, T s) {
  return {a.x / s, a.y / s, a.z / s};
}

template <typename T>
JGD_HD inline Vec3<T>& operator+=(Vec3<T>& a, const Vec3<T>& b) {
  return a = a + b;
}

template <typename T>
JGD_HD inline Sym2<T> operator+(const Sym2<T>& a, const Sym2<T>& b) {
  return {a.xx + b.xx, a.xy + b.xy, a.yy + b.yy};
}

template <typename T>
JGD_HD inline Quat<T>& operator+=(Quat<T>& a, const Quat<T>& b) {
  return a = {a.w + b.w, a.x + b.x, a.y + b.y, a.z + b.z};
}

template <typename T>
JGD_HD inline Sym3<T>& operator+=(Sym3<T>& a, const Sym3<T>& b) {
  return a = {a.xx + b.xx, a.xy + b.xy, a.xz + b.xz, a.yy + b.yy, a.yz + b.yz, a.zz + b.zz};
}

template <typename T>
JGD_HD inline Mat3<T>& operator+=(Mat3<T>& a, const Mat3<T>& b) {
  JGD_UNROLL
  for (int i = 0; i < 9; ++i) a.m[i] += b.m[i];
  return a;
}

template <typename T>
JGD_HD inline T dot(const Vec3<T>& a, const Vec3<T>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}

template <typename T>
JGD_HD inline T max_abs(const Vec3<T>& a) {
  return max(max(abs(a.x), abs(a.y)), abs(a.z));
}

template <typename T>
JGD_HD inline T max_abs(const Quat<T>& a) {
  return max(max(abs(a.w), abs(a.x)), max(abs(a.y), abs(a.z)));
}

template <typename T>
JGD_HD inline Vec3<T> row(const Mat3<T>& a, int i) {
  return {a(i, 0), a(i, 1), a(i, 2)};
}

// The matrix with the given rows.
template <typename T>
JGD_HD inline Mat3<T> from_rows(const Vec3<T>& a, const Vec3<T>& b, const Vec3<T>& c) {
  return {{a.x, a.y, a.z, b.x, b.y, b.z, c.x, c.y, c.z}};
}

// A v
template <typename T>
JGD_HD inline Vec3<T> mul(const Mat3<T>& a, const Vec3<T>& v) {
  return {dot(row(a, 0), v), dot(row(a, 1), v), dot(row(a, 2), v)};
}

// A^T v
template <typename T>
JGD_HD inline Vec3<T> mul_transposed(const Mat3<T>& a, const Vec3<T>& v) {
  return v.x * row(a, 0) + v.y * row(a, 1) + v.z * row(a, 2);
}

// S v
template <typename T>
JGD_HD inline Vec3<T> mul(const Sym3<T>& s, const Vec3<T>& v) {
  return {s.xx * v.x + s.xy * v.y + s.xz * v.z, s.xy * v.x + s.yy * v.y + s.yz * v.z,
          s.xz * v.x + s.yz * v.y + s.zz * v.z};
}

// a b^T
template <typename T>
JGD_HD inline Mat3<T> outer(const Vec3<T>& a, const Vec3<T>& b) {
  return from_rows(a.x * b, a.y * b, a.z * b);
}

}  // namespace jgd
