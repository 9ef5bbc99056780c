// Loads and stores between the arrays of the stages and the values of math/.
#pragma once

#include <cstdint>
#include <vector>

#include "math/camera.h"
#include "math/vec.h"

namespace jgd::cpu {

template <typename T>
Vec2<T> load_vec2(const T* data, int64_t i) {
  return {data[2 * i], data[2 * i + 1]};
}

template <typename T>
Vec3<T> load_vec3(const T* data, int64_t i) {
  return {data[3 * i], data[3 * i + 1], data[3 * i + 2]};
}

template <typename T>
Quat<T> load_quat(const T* data, int64_t i) {
  return {data[4 * i], data[4 * i + 1], data[4 * i + 2], data[4 * i + 3]};
}

template <typename T>
Sym2<T> load_sym2(const T* data, int64_t i) {
  return {data[3 * i], data[3 * i + 1], data[3 * i + 2]};
}

template <typename T>
Sym3<T> load_sym3(const T* data, int64_t i) {
  const T* p = data + 6 * i;
  return {p[0], p[1], p[2], p[3], p[4], p[5]};
}

// Row-major 4x4 world-to-camera matrix; the last row is not read.
template <typename T>
Pose<T> load_pose(const T* viewmat, int64_t camera) {
  const T* m = viewmat + 16 * camera;
  return {{m[0], m[1], m[2], m[4], m[5], m[6], m[8], m[9], m[10]}, {m[3], m[7], m[11]}};
}

// Row-major 3x3 camera matrix; only fx, fy, cx, cy are read.
template <typename T>
Pinhole<T> load_pinhole(const T* K, int64_t camera) {
  const T* m = K + 9 * camera;
  return {m[0], m[4], m[2], m[5]};
}

// The `add` family puts a gradient on top of that of earlier cameras.
template <typename T>
void add_vec3(T* data, int64_t i, const Vec3<T>& v) {
  data[3 * i] += v.x;
  data[3 * i + 1] += v.y;
  data[3 * i + 2] += v.z;
}

template <typename T>
void add_quat(T* data, int64_t i, const Quat<T>& v) {
  data[4 * i] += v.w;
  data[4 * i + 1] += v.x;
  data[4 * i + 2] += v.y;
  data[4 * i + 3] += v.z;
}

template <typename T>
void add_sym3(T* data, int64_t i, const Sym3<T>& v) {
  T* p = data + 6 * i;
  p[0] += v.xx;
  p[1] += v.xy;
  p[2] += v.xz;
  p[3] += v.yy;
  p[4] += v.yz;
  p[5] += v.zz;
}

// Sum of the gradients that all Gaussians have for one camera, in double: there are many of them.
struct CameraGradient {
  double R[9] = {};
  double t[3] = {};
  double K[4] = {};  // fx, fy, cx, cy

  template <typename T>
  void add(const Pose<T>& v) {
    for (int i = 0; i < 9; ++i) R[i] += v.R.m[i];
    t[0] += v.t.x;
    t[1] += v.t.y;
    t[2] += v.t.z;
  }

  template <typename T>
  void add(const Pinhole<T>& v) {
    K[0] += v.fx;
    K[1] += v.fy;
    K[2] += v.cx;
    K[3] += v.cy;
  }

  void add(const CameraGradient& other) {
    for (int i = 0; i < 9; ++i) R[i] += other.R[i];
    for (int i = 0; i < 3; ++i) t[i] += other.t[i];
    for (int i = 0; i < 4; ++i) K[i] += other.K[i];
  }

  template <typename T>
  void store_viewmat(T* viewmat, int64_t camera) const {
    T* m = viewmat + 16 * camera;
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) m[4 * i + j] = static_cast<T>(R[3 * i + j]);
      m[4 * i + 3] = static_cast<T>(t[i]);
      m[12 + i] = T(0);
    }
    m[15] = T(0);
  }

  template <typename T>
  void store_K(T* data, int64_t camera) const {
    T* m = data + 9 * camera;
    for (int i = 0; i < 9; ++i) m[i] = T(0);
    m[0] = static_cast<T>(K[0]);
    m[4] = static_cast<T>(K[1]);
    m[2] = static_cast<T>(K[2]);
    m[5] = static_cast<T>(K[3]);
  }
};

// The gradient of one camera from partial[range * n_cameras + camera], added in range order.
inline CameraGradient sum_over_ranges(const std::vector<CameraGradient>& partial, int64_t n_cameras,
                                      int64_t camera) {
  CameraGradient sum;
  for (size_t i = camera; i < partial.size(); i += n_cameras) sum.add(partial[i]);
  return sum;
}

}  // namespace jgd::cpu
