// Makes a colour of spherical-harmonics coefficients and a viewing direction; the body of the shade
// stage.
//
// Basis, order and signs are those of 3DGS (see constants.h): Y_l^m stands at l^2 + l + m, so that
// degree 1 is (-y, z, -x).
#pragma once

#include "math/constants.h"
#include "math/hd.h"
#include "math/vec.h"

namespace jgd {

inline constexpr int kMaxShDegree = 4;

// The basis that the coefficients belong to. The values are the positions in SH_CONVENTIONS of
// _types.py.
enum class ShConvention {
  k3dgs = 0,
  kE3nn = 1,  // the polynomials of 3DGS on the axes (z, x, y)
  kE3nnLegacy = 2,  // kE3nn with the one wrong polynomial, base 14, of an original rasterizer
};
inline constexpr int kShConventions = 3;

JGD_HD constexpr int sh_bases(int degree) { return (degree + 1) * (degree + 1); }

// Writes the sh_bases(degree) basis values at a unit direction in the axes of the convention.
template <typename T>
JGD_HD inline void sh_basis(int degree, const Vec3<T>& dir, ShConvention convention, T* out) {
  const T x = dir.x, y = dir.y, z = dir.z;
  out[0] = T(kSh00);
  if (degree < 1) return;

  out[1] = T(-kSh1) * y;
  out[2] = T(kSh1) * z;
  out[3] = T(-kSh1) * x;
  if (degree < 2) return;

  const T zz = z * z;
  const T c2 = x * x - y * y, s2 = T(2) * x * y;
  const T q21 = T(-kSh21) * z;
  out[4] = T(kSh22) * s2;
  out[5] = q21 * y;
  out[6] = T(kSh20) * (T(3) * zz - T(1));
  out[7] = q21 * x;
  out[8] = T(kSh22) * c2;
  if (degree < 3) return;

  const T c3 = x * c2 - y * s2, s3 = x * s2 + y * c2;
  const T q31 = T(-kSh31) * (T(5) * zz - T(1));
  const T q32 = T(kSh32) * z;
  out[9] = T(-kSh33) * s3;
  out[10] = q32 * s2;
  out[11] = q31 * y;
  out[12] = T(kSh30) * z * (T(5) * zz - T(3));
  out[13] = q31 * x;
  out[14] = (convention == ShConvention::kE3nnLegacy ? T(kSh32) * x : q32) * c2;
  out[15] = T(-kSh33) * c3;
  if (degree < 4) return;

  const T c4 = x * c3 - y * s3, s4 = x * s3 + y * c3;
  const T q41 = T(-kSh41) * z * (T(7) * zz - T(3));
  const T q42 = T(kSh42) * (T(7) * zz - T(1));
  const T q43 = T(-kSh43) * z;
  out[16] = T(kSh44) * s4;
  out[17] = q43 * s3;
  out[18] = q42 * s2;
  out[19] = q41 * y;
  out[20] = T(kSh40) * (zz * (T(35) * zz - T(30)) + T(3));
  out[21] = q41 * x;
  out[22] = q42 * c2;
  out[23] = q43 * c3;
  out[24] = T(kSh44) * c4;
}

// One pair out[+m] = q(z) c_m, out[-m] = q(z) s_m; from
//   d(c_m + i s_m) = m (c_{m-1} + i s_{m-1}) (dx + i dy) follow
//   v_x += m q (v_c c_{m-1} + v_s s_{m-1}), v_y += m q (v_s c_{m-1} - v_c s_{m-1}),
//   v_z += q' (v_c c_m + v_s s_m).
template <typename T>
JGD_HD inline void sh_pair_vjp(T m, T q, T dq, T c, T s, T c_lower, T s_lower, T v_c, T v_s,
                               Vec3<T>& v_dir) {
  v_dir.x += m * q * (v_c * c_lower + v_s * s_lower);
  v_dir.y += m * q * (v_s * c_lower - v_c * s_lower);
  v_dir.z += dq * (v_c * c + v_s * s);
}

// v_dir = sum_b v_basis_b dY_b/d(x, y, z) of the polynomials above, with x, y and z free. Returns
// v_dir.
template <typename T>
JGD_HD inline Vec3<T> sh_basis_vjp(int degree, const Vec3<T>& dir, ShConvention convention,
                                   const T* v) {
  const T x = dir.x, y = dir.y, z = dir.z;
  Vec3<T> v_dir{T(0), T(0), T(0)};
  if (degree < 1) return v_dir;

  v_dir = {T(-kSh1) * v[3], T(-kSh1) * v[1], T(kSh1) * v[2]};
  if (degree < 2) return v_dir;

  const T zz = z * z;
  const T c2 = x * x - y * y, s2 = T(2) * x * y;
  v_dir.z += T(6 * kSh20) * z * v[6];
  sh_pair_vjp(T(1), T(-kSh21) * z, T(-kSh21), x, y, T(1), T(0), v[7], v[5], v_dir);
  sh_pair_vjp(T(2), T(kSh22), T(0), c2, s2, x, y, v[8], v[4], v_dir);
  if (degree < 3) return v_dir;

  const T c3 = x * c2 - y * s2, s3 = x * s2 + y * c2;
  v_dir.z += T(kSh30) * (T(15) * zz - T(3)) * v[12];
  sh_pair_vjp(T(1), T(-kSh31) * (T(5) * zz - T(1)), T(-10 * kSh31) * z, x, y, T(1), T(0), v[13],
              v[11], v_dir);
  const bool legacy = convention == ShConvention::kE3nnLegacy;
  sh_pair_vjp(T(2), T(kSh32) * z, T(kSh32), c2, s2, x, y, legacy ? T(0) : v[14], v[10], v_dir);
  if (legacy) {  // d(x c2) = (c2 + 2 x^2) dx - 2 x y dy
    v_dir.x += T(kSh32) * v[14] * (c2 + T(2) * x * x);
    v_dir.y -= T(kSh32) * v[14] * s2;
  }
  sh_pair_vjp(T(3), T(-kSh33), T(0), c3, s3, c2, s2, v[15], v[9], v_dir);
  if (degree < 4) return v_dir;

  const T c4 = x * c3 - y * s3, s4 = x * s3 + y * c3;
  v_dir.z += T(kSh40) * z * (T(140) * zz - T(60)) * v[20];
  sh_pair_vjp(T(1), T(-kSh41) * z * (T(7) * zz - T(3)), T(-kSh41) * (T(21) * zz - T(3)), x, y, T(1),
              T(0), v[21], v[19], v_dir);
  sh_pair_vjp(T(2), T(kSh42) * (T(7) * zz - T(1)), T(14 * kSh42) * z, c2, s2, x, y, v[22], v[18],
              v_dir);
  sh_pair_vjp(T(3), T(-kSh43) * z, T(-kSh43), c3, s3, c2, s2, v[23], v[17], v_dir);
  sh_pair_vjp(T(4), T(kSh44), T(0), c4, s4, c3, s3, v[24], v[16], v_dir);
  return v_dir;
}

// offset / |offset| without overflow or underflow; zero where the offset is zero or not finite.
template <typename T>
JGD_HD inline Vec3<T> direction(const Vec3<T>& offset) {
  const Vec3<T> zero{T(0), T(0), T(0)};
  const T scale = max_abs(offset);
  const Mask<T> valid = is_finite(offset) && scale > T(0);
  if (none_of(valid)) return zero;
  const Vec3<T> u = offset / scale;
  return select(valid, u / sqrt(dot(u, u)), zero);
}

// v_offset = (v_dir - dir (dir . v_dir)) / |offset|; zero where direction is. Returns v_offset.
template <typename T>
JGD_HD inline Vec3<T> direction_vjp(const Vec3<T>& offset, const Vec3<T>& v_dir) {
  const Vec3<T> zero{T(0), T(0), T(0)};
  const T scale = max_abs(offset);
  const Mask<T> valid = is_finite(offset) && scale > T(0);
  if (none_of(valid)) return zero;
  const Vec3<T> u = offset / scale;
  const T length = sqrt(dot(u, u));
  const Vec3<T> dir = u / length;
  return select(valid, (v_dir - dot(dir, v_dir) * dir) / length / scale, zero);
}

// The direction at which the 3DGS polynomials are evaluated: the viewing direction itself, or its
// cyclic permutation, which makes them the real harmonics of e3nn at (-x, y, -z).
template <typename T>
JGD_HD inline Vec3<T> sh_axes(const Vec3<T>& dir, ShConvention convention) {
  return convention == ShConvention::k3dgs ? dir : Vec3<T>{dir.z, dir.x, dir.y};
}

// The inverse permutation. Returns v_dir.
template <typename T>
JGD_HD inline Vec3<T> sh_axes_vjp(const Vec3<T>& v, ShConvention convention) {
  return convention == ShConvention::k3dgs ? v : Vec3<T>{v.y, v.z, v.x};
}

// Whether a channel passes the clamp at 0. A non-finite value does not: the colour is 0 and takes
// no gradient, so that bad coefficients of one Gaussian never become a NaN elsewhere.
template <typename T>
JGD_HD inline Mask<T> sh_unclamped(T value) {
  return value > T(0) && is_finite(value);
}

// Whether the first n coefficients are finite. The clamp at 0 would hide -inf and NaN; the callers
// write NaN instead, and blend culls by the colour.
template <typename T>
JGD_HD inline Mask<T> all_finite(const T* sh, int n) {
  T zero = T(0);
  JGD_UNROLL
  for (int i = 0; i < n; ++i) zero += T(0) * sh[i];
  return zero == T(0);
}

// sum_b Y_b sh[b] + 0.5, before the clamp. The degree is a compile-time constant so that the basis
// stays in registers.
template <int kDegree, typename T>
JGD_HD inline Vec3<T> sh_sum(const T* basis, const T* sh) {
  Vec3<T> sum{T(0), T(0), T(0)};
  JGD_UNROLL
  for (int b = 0; b < sh_bases(kDegree); ++b) {
    sum += basis[b] * Vec3<T>{sh[3 * b], sh[3 * b + 1], sh[3 * b + 2]};
  }
  return sum + Vec3<T>{T(0.5), T(0.5), T(0.5)};
}

// Colour max(sum_b Y_b(dir) sh[b] + 0.5, 0) with dir = offset / |offset|, offset = mean - camera
// centre. sh is [B, 3] with B >= sh_bases(kDegree).
template <int kDegree, typename T>
JGD_HD inline Vec3<T> sh_color_of_degree(const T* sh, const Vec3<T>& offset,
                                         ShConvention convention) {
  T basis[sh_bases(kDegree)];
  sh_basis(kDegree, sh_axes(direction(offset), convention), convention, basis);
  const Vec3<T> value = sh_sum<kDegree>(basis, sh);
  return {select(sh_unclamped(value.x), value.x, T(0)),
          select(sh_unclamped(value.y), value.y, T(0)),
          select(sh_unclamped(value.z), value.z, T(0))};
}

// v_sh[b] = Y_b v, v_basis_b = sh[b] . v, then through the basis and the normalisation, where v is
// v_color with the clamped channels set to 0. Writes v_sh for the sh_bases(kDegree) bases only, and
// v_offset.
template <int kDegree, typename T>
JGD_HD inline void sh_color_of_degree_vjp(const T* sh, const Vec3<T>& offset,
                                          ShConvention convention, const Vec3<T>& v_color, T* v_sh,
                                          Vec3<T>& v_offset) {
  T basis[sh_bases(kDegree)];
  const Vec3<T> axes = sh_axes(direction(offset), convention);
  sh_basis(kDegree, axes, convention, basis);
  const Vec3<T> value = sh_sum<kDegree>(basis, sh);
  const Mask<T> use_x = sh_unclamped(value.x);
  const Mask<T> use_y = sh_unclamped(value.y);
  const Mask<T> use_z = sh_unclamped(value.z);
  const Vec3<T> v{select(use_x, v_color.x, T(0)), select(use_y, v_color.y, T(0)),
                  select(use_z, v_color.z, T(0))};
  T v_basis[sh_bases(kDegree)];
  JGD_UNROLL
  for (int b = 0; b < sh_bases(kDegree); ++b) {
    // Selected, not multiplied by zero: the coefficient of an unused channel may be NaN.
    v_basis[b] = select(use_x, v.x * sh[3 * b], T(0)) + select(use_y, v.y * sh[3 * b + 1], T(0)) +
                 select(use_z, v.z * sh[3 * b + 2], T(0));
    v_sh[3 * b] = v.x * basis[b];
    v_sh[3 * b + 1] = v.y * basis[b];
    v_sh[3 * b + 2] = v.z * basis[b];
  }
  v_offset = direction_vjp(
      offset, sh_axes_vjp(sh_basis_vjp(kDegree, axes, convention, v_basis), convention));
}

}  // namespace jgd
