// Makes a world-frame covariance of a quaternion (wxyz) and scales; first step of projection.
//
// A quaternion of any non-zero length is normalised here, without overflow or underflow of the
// squared length. A zero or non-finite one gives the identity and zero gradients, so that no NaN
// can arise; the caller culls it (valid_quat_scale in projection.h).
#pragma once

#include "math/hd.h"
#include "math/vec.h"

namespace jgd {

// q / |q|, and the two factors of |q| = scale * length with length in [1, 2].
template <typename T>
struct UnitQuat {
  Quat<T> q;
  T scale, length;
};

template <typename T>
JGD_HD inline UnitQuat<T> normalize(const Quat<T>& q) {
  const Quat<T> zero{T(0), T(0), T(0), T(0)};
  const T scale = max_abs(q);
  const Mask<T> valid = is_finite(q) && scale > T(0);
  if (none_of(valid)) return {zero, T(0), T(0)};
  const Quat<T> u{q.w / scale, q.x / scale, q.y / scale, q.z / scale};
  const T length = sqrt(u.w * u.w + u.x * u.x + u.y * u.y + u.z * u.z);
  const Quat<T> n{u.w / length, u.x / length, u.y / length, u.z / length};
  return {select(valid, n, zero), select(valid, scale, T(0)), select(valid, length, T(0))};
}

// v_q = (v_n - n (n . v_n)) / |q| with n = q / |q|. Takes the result of normalize; returns v_q.
template <typename T>
JGD_HD inline Quat<T> normalize_vjp(const UnitQuat<T>& n, const Quat<T>& v) {
  const Quat<T> zero{T(0), T(0), T(0), T(0)};
  const Mask<T> valid = n.scale > T(0);
  if (none_of(valid)) return zero;
  const Quat<T>& q = n.q;
  const T along = q.w * v.w + q.x * v.x + q.y * v.y + q.z * v.z;
  // Two divisions: the product scale * length overflows for the largest quaternions.
  const Quat<T> v_q{
      (v.w - q.w * along) / n.length / n.scale, (v.x - q.x * along) / n.length / n.scale,
      (v.y - q.y * along) / n.length / n.scale, (v.z - q.z * along) / n.length / n.scale};
  return select(valid, v_q, zero);
}

// Rotation matrix of q / |q|.
template <typename T>
JGD_HD inline Mat3<T> rotation(const Quat<T>& q) {
  const Quat<T> n = normalize(q).q;
  const T w = n.w, x = n.x, y = n.y, z = n.z;
  return {{T(1) - T(2) * (y * y + z * z), T(2) * (x * y - w * z), T(2) * (x * z + w * y),
           T(2) * (x * y + w * z), T(1) - T(2) * (x * x + z * z), T(2) * (y * z - w * x),
           T(2) * (x * z - w * y), T(2) * (y * z + w * x), T(1) - T(2) * (x * x + y * y)}};
}

// v_n_k = sum_ij v_R_ij dR_ij/dn_k of the polynomial above, then normalize_vjp. Returns v_q.
template <typename T>
JGD_HD inline Quat<T> rotation_vjp(const Quat<T>& q, const Mat3<T>& v_R) {
  const UnitQuat<T> n = normalize(q);
  const T w = n.q.w, x = n.q.x, y = n.q.y, z = n.q.z;
  // R - R^T is linear in w; R + R^T holds the products of x, y, z.
  const T skew_x = v_R(2, 1) - v_R(1, 2);
  const T skew_y = v_R(0, 2) - v_R(2, 0);
  const T skew_z = v_R(1, 0) - v_R(0, 1);
  const T sym_xy = v_R(0, 1) + v_R(1, 0);
  const T sym_xz = v_R(0, 2) + v_R(2, 0);
  const T sym_yz = v_R(1, 2) + v_R(2, 1);
  const Quat<T> v_n{
      T(2) * (x * skew_x + y * skew_y + z * skew_z),
      T(2) * (w * skew_x + y * sym_xy + z * sym_xz) - T(4) * x * (v_R(1, 1) + v_R(2, 2)),
      T(2) * (w * skew_y + x * sym_xy + z * sym_yz) - T(4) * y * (v_R(0, 0) + v_R(2, 2)),
      T(2) * (w * skew_z + x * sym_xz + y * sym_yz) - T(4) * z * (v_R(0, 0) + v_R(1, 1))};
  return normalize_vjp(n, v_n);
}

// cov = M M^T with M = R(q) diag(s).
template <typename T>
JGD_HD inline Sym3<T> covariance(const Quat<T>& q, const Vec3<T>& s) {
  const Mat3<T> R = rotation(q);
  const Vec3<T> a{R(0, 0) * s.x, R(0, 1) * s.y, R(0, 2) * s.z};
  const Vec3<T> b{R(1, 0) * s.x, R(1, 1) * s.y, R(1, 2) * s.z};
  const Vec3<T> c{R(2, 0) * s.x, R(2, 1) * s.y, R(2, 2) * s.z};
  return {dot(a, a), dot(a, b), dot(a, c), dot(b, b), dot(b, c), dot(c, c)};
}

// v_M = 2 G M, v_R = v_M diag(s), v_s_j = sum_i R_ij v_M_ij. Writes v_q and v_s.
template <typename T>
JGD_HD inline void covariance_vjp(const Quat<T>& q, const Vec3<T>& s, const Sym3<T>& v_cov,
                                  Quat<T>& v_q, Vec3<T>& v_s) {
  const Mat3<T> R = rotation(q);
  const Sym3<T> two_g{T(2) * v_cov.xx, v_cov.xy, v_cov.xz,
                      T(2) * v_cov.yy, v_cov.yz, T(2) * v_cov.zz};
  // Column j of 2 G R; column j of v_M is s_j times it.
  const Vec3<T> col_x{R(0, 0), R(1, 0), R(2, 0)};
  const Vec3<T> col_y{R(0, 1), R(1, 1), R(2, 1)};
  const Vec3<T> col_z{R(0, 2), R(1, 2), R(2, 2)};
  const Vec3<T> g_x = mul(two_g, col_x);
  const Vec3<T> g_y = mul(two_g, col_y);
  const Vec3<T> g_z = mul(two_g, col_z);
  v_s = {s.x * dot(col_x, g_x), s.y * dot(col_y, g_y), s.z * dot(col_z, g_z)};
  const T xx = s.x * s.x, yy = s.y * s.y, zz = s.z * s.z;
  const Mat3<T> v_R{{xx * g_x.x, yy * g_y.x, zz * g_z.x,  //
                     xx * g_x.y, yy * g_y.y, zz * g_z.y,  //
                     xx * g_x.z, yy * g_y.z, zz * g_z.z}};
  v_q = rotation_vjp(q, v_R);
}

}  // namespace jgd
