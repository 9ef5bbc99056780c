// Makes random inputs for the math tests, away from the points where a clamp switches.
#pragma once

#include <cmath>

#include "check.h"
#include "math/quat.h"
#include "math/vec.h"

namespace test {

inline constexpr int kWidth = 64, kHeight = 48;  // of the image

inline void RandomQuat(double* q) {
  double norm = 0;
  do {
    RandomValues(q, 4, -1, 1);
    norm = std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  } while (norm < 0.5);
}

inline void RandomCovariance(double* cov) {
  double q[4], s[3];
  RandomQuat(q);
  RandomValues(s, 3, 0.3, 1);
  Write(jgd::covariance(Read<jgd::Quat<double>>(q), Read<jgd::Vec3<double>>(s)), cov);
}

inline void RandomRotation(double* R) {
  double q[4];
  RandomQuat(q);
  Write(jgd::rotation(Read<jgd::Quat<double>>(q)), R);
}

inline void RandomCamera(double* K) {
  K[0] = Uniform(40, 60);
  K[1] = Uniform(40, 60);
  K[2] = Uniform(0.4, 0.6) * kWidth;
  K[3] = Uniform(0.4, 0.6) * kHeight;
}

// Makes a point in the camera frame: on each axis before, inside or beyond the limit of the
// Jacobian.
inline void RandomPoint(const double* K, double* m) {
  const double size[2] = {kWidth, kHeight};
  m[2] = Uniform(1, 3);
  for (int axis = 0; axis < 2; ++axis) {
    const double low[3] = {-0.6, -0.1, 1.2}, high[3] = {-0.2, 1.1, 1.6};
    const int region = static_cast<int>(Uniform(0, 3));
    const double pixel = Uniform(low[region], high[region]) * size[axis];
    m[axis] = (pixel - K[2 + axis]) / K[axis] * m[2];
  }
}

}  // namespace test
