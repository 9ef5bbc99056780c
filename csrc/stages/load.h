// Loads the values of math/ from the arrays of the stages, and stores them.
#pragma once

#include <cstdint>

#include "math/camera.h"
#include "math/hd.h"
#include "math/vec.h"

namespace jgd {

template <typename T>
JGD_HD inline Vec2<T> load_vec2(const T* data, int64_t i) {
  return {data[2 * i], data[2 * i + 1]};
}

template <typename T>
JGD_HD inline Vec3<T> load_vec3(const T* data, int64_t i) {
  return {data[3 * i], data[3 * i + 1], data[3 * i + 2]};
}

template <typename T>
JGD_HD inline Quat<T> load_quat(const T* data, int64_t i) {
  return {data[4 * i], data[4 * i + 1], data[4 * i + 2], data[4 * i + 3]};
}

template <typename T>
JGD_HD inline Sym2<T> load_sym2(const T* data, int64_t i) {
  return {data[3 * i], data[3 * i + 1], data[3 * i + 2]};
}

template <typename T>
JGD_HD inline Sym3<T> load_sym3(const T* data, int64_t i) {
  const T* p = data + 6 * i;
  return {p[0], p[1], p[2], p[3], p[4], p[5]};
}

// Row-major 4x4 world-to-camera matrix; the last row is not read.
template <typename T>
JGD_HD inline Pose<T> load_pose(const T* viewmat, int64_t camera) {
  const T* m = viewmat + 16 * camera;
  return {{m[0], m[1], m[2], m[4], m[5], m[6], m[8], m[9], m[10]}, {m[3], m[7], m[11]}};
}

// Row-major 3x3 camera matrix; only fx, fy, cx, cy are read.
template <typename T>
JGD_HD inline Pinhole<T> load_pinhole(const T* K, int64_t camera) {
  const T* m = K + 9 * camera;
  return {m[0], m[4], m[2], m[5]};
}

template <typename T>
JGD_HD inline void store_vec2(T* data, int64_t i, const Vec2<T>& v) {
  data[2 * i] = v.x;
  data[2 * i + 1] = v.y;
}

template <typename T>
JGD_HD inline void store_vec3(T* data, int64_t i, const Vec3<T>& v) {
  data[3 * i] = v.x;
  data[3 * i + 1] = v.y;
  data[3 * i + 2] = v.z;
}

template <typename T>
JGD_HD inline void store_quat(T* data, int64_t i, const Quat<T>& v) {
  data[4 * i] = v.w;
  data[4 * i + 1] = v.x;
  data[4 * i + 2] = v.y;
  data[4 * i + 3] = v.z;
}

template <typename T>
JGD_HD inline void store_sym2(T* data, int64_t i, const Sym2<T>& v) {
  data[3 * i] = v.xx;
  data[3 * i + 1] = v.xy;
  data[3 * i + 2] = v.yy;
}

template <typename T>
JGD_HD inline void store_sym3(T* data, int64_t i, const Sym3<T>& v) {
  T* p = data + 6 * i;
  p[0] = v.xx;
  p[1] = v.xy;
  p[2] = v.xz;
  p[3] = v.yy;
  p[4] = v.yz;
  p[5] = v.zz;
}

}  // namespace jgd
