// Accumulates the gradient of one camera over all Gaussians.
#pragma once

#include <cstdint>

#include "cpu/memory.h"
#include "math/camera.h"

namespace jgd::cpu {

// The sum is in double because it has a term for each Gaussian.
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

// Sums partial[range * n_cameras + camera] over the ranges, in their order.
inline CameraGradient sum_over_ranges(const Vector<CameraGradient>& partial, int64_t n_cameras,
                                      int64_t camera) {
  CameraGradient sum;
  for (size_t i = camera; i < partial.size(); i += n_cameras) sum.add(partial[i]);
  return sum;
}

}  // namespace jgd::cpu
