// Maps points and covariances from the world to the camera and to pixels; second step of
// projection.
//
// OpenCV axes: x right, y down, z forward. Every _vjp writes its outputs, never adds to them, and
// is exact, including the derivative with respect to the camera.
#pragma once

#include "math/constants.h"
#include "math/hd.h"
#include "math/vec.h"

namespace jgd {

// Intrinsics, pixels. The centre of the top left pixel is (0.5, 0.5).
template <typename T>
struct Pinhole {
  T fx, fy, cx, cy;
};

// World to camera: m = R mean + t.
template <typename T>
struct Pose {
  Mat3<T> R;
  Vec3<T> t;
};

// The 2x3 Jacobian of the pinhole projection, [[xx, 0, xz], [0, yy, yz]].
template <typename T>
struct Jacobian {
  T xx, xz, yy, yz;
};

// m = R mean + t
template <typename T>
JGD_HD inline Vec3<T> world_to_camera(const Pose<T>& pose, const Vec3<T>& mean) {
  return mul(pose.R, mean) + pose.t;
}

// v_mean = R^T v_m, v_R = v_m mean^T, v_t = v_m. Writes v_mean and v_pose.
template <typename T>
JGD_HD inline void world_to_camera_vjp(const Pose<T>& pose, const Vec3<T>& mean, const Vec3<T>& v_m,
                                       Vec3<T>& v_mean, Pose<T>& v_pose) {
  v_mean = mul_transposed(pose.R, v_m);
  v_pose.R = outer(v_m, mean);
  v_pose.t = v_m;
}

// c = -R^T t, the camera centre in the world frame.
template <typename T>
JGD_HD inline Vec3<T> camera_center(const Pose<T>& pose) {
  return T(-1) * mul_transposed(pose.R, pose.t);
}

// v_R = -t v_c^T, v_t = -R v_c. Returns v_pose.
template <typename T>
JGD_HD inline Pose<T> camera_center_vjp(const Pose<T>& pose, const Vec3<T>& v_center) {
  return {outer(T(-1) * pose.t, v_center), T(-1) * mul(pose.R, v_center)};
}

// (u, v) = (fx x / z + cx, fy y / z + cy), pixels.
template <typename T>
JGD_HD inline Vec2<T> project_point(const Pinhole<T>& K, const Vec3<T>& m) {
  return {K.fx * (m.x / m.z) + K.cx, K.fy * (m.y / m.z) + K.cy};
}

// v_x = v_u fx / z, v_z = -(v_x x + v_y y) / z, v_fx = v_u x / z, v_cx = v_u. Writes v_m and v_K.
template <typename T>
JGD_HD inline void project_point_vjp(const Pinhole<T>& K, const Vec3<T>& m, const Vec2<T>& v_uv,
                                     Vec3<T>& v_m, Pinhole<T>& v_K) {
  const T x = m.x / m.z, y = m.y / m.z;
  v_m.x = v_uv.x * (K.fx / m.z);
  v_m.y = v_uv.y * (K.fy / m.z);
  v_m.z = -(v_m.x * x + v_m.y * y);
  v_K = {v_uv.x * x, v_uv.y * y, v_uv.x, v_uv.y};
}

// One row of the Jacobian is f / z and -p / z. Here p = f x / z is limited to lie at most
// kFrustumMargin half image sizes outside the image: p in [-(c + margin), size - c + margin] with
// margin = kFrustumMargin size / 2. Limiting p instead of its multiple x / z needs no division.
template <typename T>
struct LimitedOffset {
  T p;             // limited offset from the principal point, pixels
  Mask<T> active;  // p is the limit, which depends on c but neither on f nor on x / z
};

template <typename T>
JGD_HD inline LimitedOffset<T> limited_offset(T f, T c, T ratio, int size) {
  const T margin = T(0.5 * kFrustumMargin) * T(size);
  const T lower = -(c + margin);
  const T upper = (T(size) - c) + margin;
  const T p = f * ratio;
  const Mask<T> below = p < lower;
  const Mask<T> above = p > upper;
  return {select(below, lower, select(above, upper, p)), below || above};
}

// J = [[fx / z, 0, -px / z], [0, fy / z, -py / z]] with the limited px, py.
template <typename T>
JGD_HD inline Jacobian<T> pinhole_jacobian(const Pinhole<T>& K, const Vec3<T>& m, int width,
                                           int height) {
  const T px = limited_offset(K.fx, K.cx, m.x / m.z, width).p;
  const T py = limited_offset(K.fy, K.cy, m.y / m.z, height).p;
  return {K.fx / m.z, -px / m.z, K.fy / m.z, -py / m.z};
}

// v_f += v_ff / z, v_z += (p v_fz - f v_ff) / z^2, v_p = -v_fz / z; then
// limit inactive (p = f x / z):    v_f += v_p x / z, v_x = v_p f / z, v_z += -v_p p / z,
// limit active (p = const - c):    v_c = -v_p.
// Writes v_m and v_K.
template <typename T>
JGD_HD inline void pinhole_jacobian_vjp(const Pinhole<T>& K, const Vec3<T>& m, int width,
                                        int height, const Jacobian<T>& v_J, Vec3<T>& v_m,
                                        Pinhole<T>& v_K) {
  const T z = m.z;
  const T x = m.x / z, y = m.y / z;
  const LimitedOffset<T> px = limited_offset(K.fx, K.cx, x, width);
  const LimitedOffset<T> py = limited_offset(K.fy, K.cy, y, height);
  const T v_px = -v_J.xz / z;
  const T v_py = -v_J.yz / z;
  v_m = {T(0), T(0), -(v_J.xx * (K.fx / z) + v_J.yy * (K.fy / z) + v_px * px.p + v_py * py.p) / z};
  v_K = {v_J.xx / z, v_J.yy / z, T(0), T(0)};
  v_K.cx = select(px.active, -v_px, T(0));
  v_K.fx = select(px.active, v_K.fx, v_K.fx + v_px * x);
  v_m.x = select(px.active, T(0), v_px * (K.fx / z));
  v_m.z = select(px.active, v_m.z, v_m.z - v_px * (px.p / z));
  v_K.cy = select(py.active, -v_py, T(0));
  v_K.fy = select(py.active, v_K.fy, v_K.fy + v_py * y);
  v_m.y = select(py.active, T(0), v_py * (K.fy / z));
  v_m.z = select(py.active, v_m.z, v_m.z - v_py * (py.p / z));
}

// cov2d = A cov3d A^T with A = J R, rows a and b; pixels^2, without eps2d.
template <typename T>
JGD_HD inline Sym2<T> project_covariance(const Jacobian<T>& J, const Mat3<T>& R,
                                         const Sym3<T>& cov3d) {
  const Vec3<T> a = J.xx * row(R, 0) + J.xz * row(R, 2);
  const Vec3<T> b = J.yy * row(R, 1) + J.yz * row(R, 2);
  const Vec3<T> cov_a = mul(cov3d, a);
  const Vec3<T> cov_b = mul(cov3d, b);
  return {dot(a, cov_a), dot(b, cov_a), dot(b, cov_b)};
}

// v_A = 2 G A cov3d, v_cov3d = A^T G A (off-diagonal entries doubled),
// v_J = v_A R^T, v_R = J^T v_A. Writes v_J, v_R and v_cov3d.
template <typename T>
JGD_HD inline void project_covariance_vjp(const Jacobian<T>& J, const Mat3<T>& R,
                                          const Sym3<T>& cov3d, const Sym2<T>& v_cov2d,
                                          Jacobian<T>& v_J, Mat3<T>& v_R, Sym3<T>& v_cov3d) {
  const Vec3<T> a = J.xx * row(R, 0) + J.xz * row(R, 2);
  const Vec3<T> b = J.yy * row(R, 1) + J.yz * row(R, 2);
  // Rows of 2 G A; then v_cov3d = (a ga^T + b gb^T) / 2, symmetric because G is.
  const Vec3<T> ga = (T(2) * v_cov2d.xx) * a + v_cov2d.xy * b;
  const Vec3<T> gb = v_cov2d.xy * a + (T(2) * v_cov2d.yy) * b;
  v_cov3d = {T(0.5) * (a.x * ga.x + b.x * gb.x),
             a.x * ga.y + b.x * gb.y,
             a.x * ga.z + b.x * gb.z,
             T(0.5) * (a.y * ga.y + b.y * gb.y),
             a.y * ga.z + b.y * gb.z,
             T(0.5) * (a.z * ga.z + b.z * gb.z)};
  const Vec3<T> v_a = mul(cov3d, ga);
  const Vec3<T> v_b = mul(cov3d, gb);
  v_J = {dot(v_a, row(R, 0)), dot(v_a, row(R, 2)), dot(v_b, row(R, 1)), dot(v_b, row(R, 2))};
  v_R = from_rows(J.xx * v_a, J.yy * v_b, J.xz * v_a + J.yz * v_b);
}

}  // namespace jgd
