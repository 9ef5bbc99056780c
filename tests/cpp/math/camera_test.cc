// Tests csrc/math/camera.h: points and covariances through the pinhole.

#include "math/camera.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "math/vec.h"
#include "random_inputs.h"

namespace {

using jgd::Jacobian;
using jgd::Mat3;
using jgd::Pinhole;
using jgd::Pose;
using jgd::Sym2;
using jgd::Sym3;
using jgd::Vec2;
using jgd::Vec3;
using test::CheckVjp;
using test::Input;
using test::kHeight;
using test::kTrials;
using test::kWidth;
using test::RandomCamera;
using test::RandomCovariance;
using test::RandomPoint;
using test::RandomRotation;
using test::RandomValues;
using test::Read;
using test::Report;
using test::Scalar;
using test::Worse;
using test::Write;

void CheckCamera() {
  CheckVjp(
      "world_to_camera_vjp", 15, 3, [](double* x) { RandomValues(x, 15, -2, 2); },
      [](const auto* x, auto* y) {
        using T = Scalar<decltype(y)>;
        Write(jgd::world_to_camera(Read<Pose<T>>(x), Read<Vec3<T>>(x + 12)), y);
      },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        Vec3<T> v_mean;
        Pose<T> v_pose;
        jgd::world_to_camera_vjp(Read<Pose<T>>(x), Read<Vec3<T>>(x + 12), Read<Vec3<T>>(v), v_mean,
                                 v_pose);
        Write(v_mean, Write(v_pose, g));
      });
  CheckVjp(
      "camera_center_vjp", 12, 3, [](double* x) { RandomValues(x, 12, -2, 2); },
      [](const auto* x, auto* y) {
        Write(jgd::camera_center(Read<Pose<Scalar<decltype(y)>>>(x)), y);
      },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        Write(jgd::camera_center_vjp(Read<Pose<T>>(x), Read<Vec3<T>>(v)), g);
      });
  const Input point = [](double* x) {
    RandomCamera(x);
    RandomPoint(x, x + 4);
  };
  CheckVjp(
      "project_point_vjp", 7, 2, point,
      [](const auto* x, auto* y) {
        using T = Scalar<decltype(y)>;
        Write(jgd::project_point(Read<Pinhole<T>>(x), Read<Vec3<T>>(x + 4)), y);
      },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        Vec3<T> v_m;
        Pinhole<T> v_K;
        jgd::project_point_vjp(Read<Pinhole<T>>(x), Read<Vec3<T>>(x + 4), Read<Vec2<T>>(v), v_m,
                               v_K);
        Write(v_m, Write(v_K, g));
      });
  CheckVjp(
      "pinhole_jacobian_vjp, limit active and not", 7, 4, point,
      [](const auto* x, auto* y) {
        using T = Scalar<decltype(y)>;
        Write(jgd::pinhole_jacobian(Read<Pinhole<T>>(x), Read<Vec3<T>>(x + 4), kWidth, kHeight), y);
      },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        Vec3<T> v_m;
        Pinhole<T> v_K;
        jgd::pinhole_jacobian_vjp(Read<Pinhole<T>>(x), Read<Vec3<T>>(x + 4), kWidth, kHeight,
                                  Read<Jacobian<T>>(v), v_m, v_K);
        Write(v_m, Write(v_K, g));
      });
  CheckVjp(
      "project_covariance_vjp", 19, 3,
      [](double* x) {
        RandomValues(x, 4, -2, 2);
        RandomRotation(x + 4);
        RandomCovariance(x + 13);
      },
      [](const auto* x, auto* y) {
        using T = Scalar<decltype(y)>;
        Write(jgd::project_covariance(Read<Jacobian<T>>(x), Read<Mat3<T>>(x + 4),
                                      Read<Sym3<T>>(x + 13)),
              y);
      },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        Jacobian<T> v_J;
        Mat3<T> v_R;
        Sym3<T> v_cov;
        jgd::project_covariance_vjp(Read<Jacobian<T>>(x), Read<Mat3<T>>(x + 4),
                                    Read<Sym3<T>>(x + 13), Read<Sym2<T>>(v), v_J, v_R, v_cov);
        Write(v_cov, Write(v_R, Write(v_J, g)));
      });

  // The limit as the definition states it, on x / z.
  double worst = 0, worst_center = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    double k[4], p[3], pose_values[12];
    RandomCamera(k);
    RandomPoint(k, p);
    const double t = kWidth / (2 * k[0]);
    const double limited =
        std::min(std::max(p[0] / p[2], -(k[2] / k[0] + 0.3 * t)), (kWidth - k[2]) / k[0] + 0.3 * t);
    const Jacobian<double> J =
        jgd::pinhole_jacobian(Read<Pinhole<double>>(k), Read<Vec3<double>>(p), kWidth, kHeight);
    worst = Worse(worst, std::fabs(J.xz + k[0] * limited / p[2]) / k[0]);
    RandomRotation(pose_values);
    RandomValues(pose_values + 9, 3, -2, 2);
    const Pose<double> pose = Read<Pose<double>>(pose_values);
    worst_center =
        Worse(worst_center, jgd::max_abs(jgd::world_to_camera(pose, jgd::camera_center(pose))));
  }
  Report("pinhole_jacobian: limit equals the definition", worst, 1e-14);
  Report("camera_center: origin of the camera frame", worst_center, 1e-14);
}

}  // namespace

int main() {
  CheckCamera();
  return test::Finish();
}
