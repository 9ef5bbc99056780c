// Tests of csrc/math with the host compiler alone: every f_vjp against finite differences, float
// against double, and values known from elsewhere.
//
//   g++ -std=c++17 -O1 -Icsrc tests/cpp/math_test.cc -o math_test && ./math_test
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "math/camera.h"
#include "math/constants.h"
#include "math/projection.h"
#include "math/quat.h"
#include "math/sh.h"
#include "math/splat.h"
#include "math/vec.h"

namespace {

using jgd::Jacobian;
using jgd::Mat3;
using jgd::Pinhole;
using jgd::Pose;
using jgd::Projected;
using jgd::ProjectedGrad;
using jgd::ProjectionSettings;
using jgd::Quat;
using jgd::Sym2;
using jgd::Sym3;
using jgd::Vec2;
using jgd::Vec3;
using test::CheckVjp;
using test::Expect;
using test::Input;
using test::kTrials;
using test::RandomValues;
using test::Read;
using test::Report;
using test::Scalar;
using test::Uniform;
using test::Worse;
using test::Write;

constexpr int kWidth = 64, kHeight = 48;

// Random inputs, kept away from the points where a clamp switches.

void RandomQuat(double* q) {
  double norm = 0;
  do {
    RandomValues(q, 4, -1, 1);
    norm = std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  } while (norm < 0.5);
}

void RandomCovariance(double* cov) {
  double q[4], s[3];
  RandomQuat(q);
  RandomValues(s, 3, 0.3, 1);
  Write(jgd::covariance(Read<Quat<double>>(q), Read<Vec3<double>>(s)), cov);
}

void RandomRotation(double* R) {
  double q[4];
  RandomQuat(q);
  Write(jgd::rotation(Read<Quat<double>>(q)), R);
}

void RandomCamera(double* K) {
  K[0] = Uniform(40, 60);
  K[1] = Uniform(40, 60);
  K[2] = Uniform(0.4, 0.6) * kWidth;
  K[3] = Uniform(0.4, 0.6) * kHeight;
}

// A point in the camera frame before, inside or beyond the limit of the Jacobian, on each axis.
void RandomPoint(const double* K, double* m) {
  const double size[2] = {kWidth, kHeight};
  m[2] = Uniform(1, 3);
  for (int axis = 0; axis < 2; ++axis) {
    const double low[3] = {-0.6, -0.1, 1.2}, high[3] = {-0.2, 1.1, 1.6};
    const int region = static_cast<int>(Uniform(0, 3));
    const double pixel = Uniform(low[region], high[region]) * size[axis];
    m[axis] = (pixel - K[2 + axis]) / K[axis] * m[2];
  }
}

void CheckQuat() {
  CheckVjp(
      "rotation_vjp", 4, 9, RandomQuat,
      [](const auto* x, auto* y) { Write(jgd::rotation(Read<Quat<Scalar<decltype(y)>>>(x)), y); },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        Write(jgd::rotation_vjp(Read<Quat<T>>(x), Read<Mat3<T>>(v)), g);
      });
  CheckVjp(
      "covariance_vjp", 7, 6,
      [](double* x) {
        RandomQuat(x);
        RandomValues(x + 4, 3, 0.1, 2);
      },
      [](const auto* x, auto* y) {
        using T = Scalar<decltype(y)>;
        Write(jgd::covariance(Read<Quat<T>>(x), Read<Vec3<T>>(x + 4)), y);
      },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        Quat<T> v_q;
        Vec3<T> v_s;
        jgd::covariance_vjp(Read<Quat<T>>(x), Read<Vec3<T>>(x + 4), Read<Sym3<T>>(v), v_q, v_s);
        Write(v_s, Write(v_q, g));
      });

  const Mat3<double> identity = jgd::rotation(Quat<double>{3, 0, 0, 0});
  const Vec3<double> turned =
      jgd::mul(jgd::rotation(Quat<double>{1, 0, 0, 1}), Vec3<double>{1, 0, 0});
  double worst = std::fabs(turned.x) + std::fabs(turned.y - 1) + std::fabs(turned.z);
  for (int i = 0; i < 9; ++i) worst = Worse(worst, std::fabs(identity.m[i] - (i % 4 == 0)));
  Report("rotation: identity, quarter turn about z", worst, 1e-15);
  const Sym3<double> cov = jgd::covariance(Quat<double>{1, 0, 0, 1}, Vec3<double>{2, 3, 4});
  Report("covariance: axes swapped by a quarter turn",
         std::fabs(cov.xx - 9) + std::fabs(cov.yy - 4) + std::fabs(cov.zz - 16) +
             std::fabs(cov.xy) + std::fabs(cov.xz) + std::fabs(cov.yz),
         1e-14);

  double worst_scaled = 0;
  bool finite = true;
  for (const float scale : {1e-37f, 1e-30f, 1e30f, 1e38f}) {
    const Quat<float> q{0.5f, -1.0f, 0.25f, 2.0f};
    const Quat<float> p{scale * q.w, scale * q.x, scale * q.y, scale * q.z};
    const Mat3<float> R = jgd::rotation(q), S = jgd::rotation(p), v_R{{1, 2, 3, 4, 5, 6, 7, 8, 9}};
    for (int i = 0; i < 9; ++i) {
      worst_scaled = Worse(worst_scaled, std::fabs(double(S.m[i]) - double(R.m[i])));
    }
    if (scale > 1) finite = finite && jgd::is_finite(jgd::rotation_vjp(p, v_R));
  }
  Report("rotation: float quaternions of length 1e-37..1e38", worst_scaled, 1e-6);
  const Quat<float> v_zero = jgd::rotation_vjp(Quat<float>{0, 0, 0, 0}, Mat3<float>{{1, 2, 3}});
  Expect("rotation_vjp: finite for huge quaternions, 0 for a zero one",
         finite && jgd::max_abs(v_zero) == 0.0f);
  const Vec3<float> one{1, 1, 1};
  Expect("valid_quat_scale",
         jgd::valid_quat_scale(Quat<float>{0, 0, 0, 1e-30f}, one) &&
             !jgd::valid_quat_scale(Quat<float>{0, 0, 0, 0}, one) &&
             !jgd::valid_quat_scale(Quat<float>{NAN, 0, 0, 1}, one) &&
             !jgd::valid_quat_scale(Quat<float>{1, INFINITY, 0, 0}, one) &&
             !jgd::valid_quat_scale(Quat<float>{1, 0, 0, 0}, Vec3<float>{1, 0, 1}) &&
             !jgd::valid_quat_scale(Quat<float>{1, 0, 0, 0}, Vec3<float>{1, 1, -1}) &&
             !jgd::valid_quat_scale(Quat<float>{1, 0, 0, 0}, Vec3<float>{INFINITY, 1, 1}));
}

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

void CheckSplat() {
  const Input spd = [](double* x) {
    RandomValues(x, 3, 0.5, 3);
    x[1] = Uniform(-0.9, 0.9) * std::sqrt(x[0] * x[2]);
  };
  CheckVjp(
      "inverse_vjp", 3, 3, spd,
      [](const auto* x, auto* y) { Write(jgd::inverse(Read<Sym2<Scalar<decltype(y)>>>(x)), y); },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        Write(jgd::inverse_vjp(jgd::inverse(Read<Sym2<T>>(x)), Read<Sym2<T>>(v)), g);
      });
  for (const bool floored : {false, true}) {
    CheckVjp(
        std::string("compensation_vjp, floor ") + (floored ? "active" : "inactive"), 6, 1,
        [&](double* x) {
          spd(x);
          // Above the floor the determinant shrinks to 0.7 or less; below it, it is negative.
          if (floored) x[1] = 1.2 * std::sqrt(x[0] * x[2]);
          x[3] = x[0] + 0.3;
          x[4] = floored ? 0 : x[1];
          x[5] = x[2] + 0.3;
        },
        [](const auto* x, auto* y) {
          using T = Scalar<decltype(y)>;
          *y = jgd::compensation(Read<Sym2<T>>(x), Read<Sym2<T>>(x + 3));
        },
        [](const auto* x, const auto* v, auto* g) {
          using T = Scalar<decltype(g)>;
          Sym2<T> v_before, v_after;
          jgd::compensation_vjp(Read<Sym2<T>>(x), Read<Sym2<T>>(x + 3), *v, v_before, v_after);
          Write(v_after, Write(v_before, g));
        });
  }
  Report("compensation: round splat, and the floor",
         std::fabs(jgd::compensation(Sym2<double>{2, 0, 2}, Sym2<double>{2.3, 0, 2.3}) - 2 / 2.3) +
             std::fabs(jgd::compensation(Sym2<double>{1, 1, 1}, Sym2<double>{2, 1, 2}) - 0.005),
         1e-15);
  double worst = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const float x = static_cast<float>(Uniform(1, 2)), y = static_cast<float>(Uniform(1, 2));
    const float xy = std::sqrt(x * y);
    const double want = double(x) * double(y) - double(xy) * double(xy);
    worst = Worse(worst, std::fabs(double(jgd::det(Sym2<float>{x, xy, y})) - want) /
                             std::max(std::fabs(want), 1e-30));
  }
  Report("det: float, nearly singular", worst, 1.2e-7);
  const float inf = INFINITY;
  Expect("radius: known values, seeds' floor, saturation",
         jgd::radius(Sym2<double>{4, 0, 1}, 0.0) == 6 &&
             jgd::radius(Sym2<double>{1, 0, 1}, 0.0) == 3 &&
             jgd::radius(Sym2<double>{1, 0, 1}, 0.1) == 4 &&
             jgd::radius(Sym2<double>{2, 1, 2}, 0.0) == 6 &&
             jgd::radius(Sym2<float>{1e30f, 0, 1}, 0.0f) == INT32_MAX &&
             jgd::radius(Sym2<float>{inf, 0, inf}, 0.0f) == INT32_MAX &&
             jgd::radius(Sym2<float>{NAN, 0, 1}, 0.0f) == INT32_MAX);
}

// The definition in constants.h without the sign (-1)^m; z is the polar axis.
double Harmonic(int l, int m, double x, double y, double z) {
  const int a = std::abs(m);
  double p = 1, p_lower = 0, factor = (2 * l + 1) / (4 * M_PI), c = 1, s = 0;
  for (int k = 1; k <= a; ++k) p *= 2 * k - 1;  // P_a^a; then upwards in the degree
  for (int k = a + 1; k <= l; ++k) {
    const double next = ((2 * k - 1) * z * p - (k + a - 1) * p_lower) / (k - a);
    p_lower = p;
    p = next;
  }
  for (int k = l - a + 1; k <= l + a; ++k) factor /= k;
  for (int k = 0; k < a; ++k) {
    const double next = x * c - y * s;
    s = x * s + y * c;
    c = next;
  }
  return std::sqrt(m == 0 ? factor : 2 * factor) * p * (m < 0 ? s : c);
}

Vec3<double> RandomDirection() {
  double d[3];
  do {
    RandomValues(d, 3, -1, 1);
  } while (jgd::max_abs(Read<Vec3<double>>(d)) < 0.3);
  return jgd::direction(Read<Vec3<double>>(d));
}

void CheckShBasis() {
  double worst_definition = 0, worst_e3nn = 0, worst_sh14 = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const Vec3<double> d = RandomDirection();
    double basis[25], permuted[25];
    jgd::sh_basis(4, d, basis);
    jgd::sh_basis(4, jgd::sh_axes(d, true), permuted);
    for (int l = 0; l <= 4; ++l) {
      for (int m = -l; m <= l; ++m) {
        const int i = l * l + l + m;
        const double sign = m % 2 ? -1 : 1;
        worst_definition =
            Worse(worst_definition, std::fabs(basis[i] - sign * Harmonic(l, m, d.x, d.y, d.z)));
        // e3nn: polar axis y, azimuth from z to x, no sign; l = 1 is (x, y, z). At (-x, y, -z).
        worst_e3nn = Worse(worst_e3nn, std::fabs(permuted[i] - Harmonic(l, m, -d.z, -d.x, d.y)));
      }
    }
    const double sh14 = jgd::kSh32 * d.y * (d.z * d.z - d.x * d.x);
    worst_sh14 = Worse(worst_sh14, std::fabs(permuted[14] - sh14));
  }
  Report("sh_basis: equals the definition, degrees 0..4", worst_definition, 2e-15);
  Report("sh_basis: e3nn axes equal e3nn at (-x, y, -z)", worst_e3nn, 2e-15);
  Report("sh_basis: e3nn axes, base 14 is y (z^2 - x^2)", worst_sh14, 2e-15);

  double one[25];
  const Vec3<double> d = jgd::direction(Vec3<double>{1, 2, 3});
  jgd::sh_basis(1, d, one);
  Report("sh_basis: degree 1 is (-y, z, -x)",
         std::fabs(one[1] + jgd::kSh1 * d.y) + std::fabs(one[2] - jgd::kSh1 * d.z) +
             std::fabs(one[3] + jgd::kSh1 * d.x),
         1e-15);

  // Gauss-Legendre in z times a uniform grid in the azimuth is exact for degree 8.
  double gram[25][25] = {};
  constexpr int kNodes = 8, kAzimuths = 18;
  for (int n = 0; n < kNodes; ++n) {
    double z = std::cos(M_PI * (n + 0.75) / (kNodes + 0.5)), slope = 1;
    for (int step = 0; step < 20; ++step) {
      double p = 1, p_lower = 0;
      for (int k = 1; k <= kNodes; ++k) {
        const double next = ((2 * k - 1) * z * p - (k - 1) * p_lower) / k;
        p_lower = p;
        p = next;
      }
      slope = kNodes * (z * p - p_lower) / (z * z - 1);
      z -= p / slope;
    }
    const double weight = 2 / ((1 - z * z) * slope * slope) * 2 * M_PI / kAzimuths;
    for (int a = 0; a < kAzimuths; ++a) {
      const double r = std::sqrt(1 - z * z), angle = 2 * M_PI * a / kAzimuths;
      double basis[25];
      jgd::sh_basis(4, Vec3<double>{r * std::cos(angle), r * std::sin(angle), z}, basis);
      for (int i = 0; i < 25; ++i) {
        for (int j = 0; j < 25; ++j) gram[i][j] += weight * basis[i] * basis[j];
      }
    }
  }
  double worst_gram = 0;
  for (int i = 0; i < 25; ++i) {
    for (int j = 0; j < 25; ++j) {
      worst_gram = Worse(worst_gram, std::fabs(gram[i][j] - (i == j)));
    }
  }
  Report("sh_basis: orthonormal on the sphere", worst_gram, 1e-13);
}

void CheckShColor() {
  for (int degree = 0; degree <= 4; ++degree) {
    const int n_bases = jgd::sh_bases(degree);
    CheckVjp(
        "sh_basis_vjp, degree " + std::to_string(degree), 3, n_bases,
        [](double* x) { Write(RandomDirection(), x); },
        [=](const auto* x, auto* y) {
          jgd::sh_basis(degree, Read<Vec3<Scalar<decltype(y)>>>(x), y);
        },
        [=](const auto* x, const auto* v, auto* g) {
          Write(jgd::sh_basis_vjp(degree, Read<Vec3<Scalar<decltype(g)>>>(x), v), g);
        });
    for (const bool e3nn : {false, true}) {
      CheckVjp(
          "sh_color_vjp, degree " + std::to_string(degree) + (e3nn ? ", e3nn" : ", 3dgs"),
          3 + 3 * n_bases, 3,
          [=](double* x) {
            // Some channels end below 0, none near it.
            Vec3<double> color;
            do {
              Write(RandomDirection(), x);
              RandomValues(x + 3, 3 * n_bases, -1, 1);
              RandomValues(x + 3, 3, -3, 3);
              color = {0.5, 0.5, 0.5};
              double basis[25];
              jgd::sh_basis(degree, jgd::sh_axes(Read<Vec3<double>>(x), e3nn), basis);
              for (int b = 0; b < n_bases; ++b) {
                color += basis[b] * Read<Vec3<double>>(x + 3 + 3 * b);
              }
            } while (std::min({std::fabs(color.x), std::fabs(color.y), std::fabs(color.z)}) < 0.05);
            for (int i = 0; i < 3; ++i) x[i] *= 2.5;
          },
          [=](const auto* x, auto* y) {
            Write(jgd::sh_color(degree, x + 3, Read<Vec3<Scalar<decltype(y)>>>(x), e3nn), y);
          },
          [=](const auto* x, const auto* v, auto* g) {
            using T = Scalar<decltype(g)>;
            Vec3<T> v_offset;
            jgd::sh_color_vjp(degree, x + 3, Read<Vec3<T>>(x), e3nn, Read<Vec3<T>>(v), g + 3,
                              v_offset);
            Write(v_offset, g);
          });
    }
  }

  float sh[75], v_sh[75];
  for (int i = 0; i < 75; ++i) sh[i] = 0.01f * static_cast<float>(i % 7);
  const auto color_at = [&](float scale) {
    return jgd::sh_color(4, sh, Vec3<float>{1 * scale, 2 * scale, -2 * scale}, false);
  };
  const Vec3<float> reference = color_at(1);
  Report("sh_color: float offsets of length 1e-30..1e30",
         std::max(jgd::max_abs(color_at(1e30f) - reference),
                  jgd::max_abs(color_at(1e-30f) - reference)),
         1e-6);
  Vec3<float> v_offset;
  const Vec3<float> zero{0, 0, 0}, ones{1, 1, 1};
  const bool zero_ok = jgd::is_finite(jgd::sh_color(4, sh, zero, false));
  jgd::sh_color_vjp(4, sh, zero, false, ones, v_sh, v_offset);
  Expect("sh_color: zero offset is finite, no gradient",
         zero_ok && jgd::max_abs(v_offset) == 0.0f &&
             std::all_of(v_sh, v_sh + 75, [](float v) { return std::isfinite(v); }));
  sh[3] = NAN;
  sh[7] = INFINITY;
  const Vec3<float> bad = jgd::sh_color(4, sh, Vec3<float>{1, 2, 3}, true);
  jgd::sh_color_vjp(4, sh, Vec3<float>{1, 2, 3}, true, ones, v_sh, v_offset);
  Expect("sh_color: a non-finite channel is 0 without gradient, others stay",
         bad.x == 0 && bad.y == 0 && bad.z > 0 && jgd::is_finite(v_offset) && v_sh[0] == 0 &&
             v_sh[1] == 0 && v_sh[2] > 0);
}

// Everything project_gaussian reads except the settings; the layout of the flat inputs below.
template <typename T>
struct Scene {
  Vec3<T> mean;
  Sym3<T> cov3d;
  T opacity;
  Pose<T> pose;
  Pinhole<T> K;
};

template <typename T>
Projected<T> Project(const Scene<T>& s, const ProjectionSettings<T>& settings) {
  return jgd::project_gaussian(s.mean, s.cov3d, s.opacity, s.pose, s.K, settings);
}

template <typename T>
ProjectionSettings<T> Settings(bool antialiased, bool three_sigma) {
  return {T(0.01), T(1e10), T(0.3), kWidth, kHeight, antialiased, three_sigma};
}

template <typename T>
bool IsCulled(const Projected<T>& p) {
  return p.radius == 0 && p.mean2d.x == 0 && p.mean2d.y == 0 && p.depth == 0 && p.conic.xx == 0 &&
         p.conic.xy == 0 && p.conic.yy == 0 && p.opacity == 0;
}

// A Gaussian that is drawn, by a margin that the steps of the differences do not use up.
void RandomScene(double* x) {
  Scene<double> s, smaller;
  do {
    double K[4], m[3], pose[12];
    RandomCamera(K);
    RandomPoint(K, m);
    RandomRotation(pose);
    RandomValues(pose + 9, 3, -1, 1);
    RandomCovariance(x + 3);
    s.K = Read<Pinhole<double>>(K);
    s.pose = Read<Pose<double>>(pose);
    s.mean = jgd::mul_transposed(s.pose.R, Read<Vec3<double>>(m) - s.pose.t);
    s.cov3d = Read<Sym3<double>>(x + 3);
    s.opacity = Uniform(0.3, 0.9);
    smaller = s;
    smaller.opacity *= 0.5;
  } while (Project(smaller, Settings<double>(true, false)).radius == 0);
  Write(s, x);
}

void CheckProjectionVjp() {
  for (const bool antialiased : {false, true}) {
    for (const bool three_sigma : {false, true}) {
      CheckVjp(
          std::string("project_gaussian_vjp") + (antialiased ? ", antialiased" : "") +
              (three_sigma ? ", 3 sigma" : ""),
          26, 7, RandomScene,
          [=](const auto* x, auto* y) {
            using T = Scalar<decltype(y)>;
            const Projected<T> p =
                Project(Read<Scene<T>>(x), Settings<T>(antialiased, three_sigma));
            const T missing = p.radius > 0 ? T(0) : std::numeric_limits<T>::quiet_NaN();
            *Write(p.conic, Write(p.depth, Write(p.mean2d, y))) = p.opacity + missing;
          },
          [=](const auto* x, const auto* v, auto* g) {
            using T = Scalar<decltype(g)>;
            const Scene<T> s = Read<Scene<T>>(x);
            Scene<T> v_s;
            jgd::project_gaussian_vjp(
                s.mean, s.cov3d, s.opacity, s.pose, s.K, Settings<T>(antialiased, three_sigma),
                Read<ProjectedGrad<T>>(v), v_s.mean, v_s.cov3d, v_s.opacity, v_s.pose, v_s.K);
            Write(v_s, g);
          });
    }
  }

  double worst = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    double x[26];
    float x_float[26];
    RandomScene(x);
    for (int i = 0; i < 26; ++i) x[i] = x_float[i] = static_cast<float>(x[i]);
    const Projected<double> p = Project(Read<Scene<double>>(x), Settings<double>(true, false));
    const Projected<float> q = Project(Read<Scene<float>>(x_float), Settings<float>(true, false));
    const double conic = p.conic.xx + p.conic.yy;
    for (const double error : {(p.mean2d.x - q.mean2d.x) / kWidth,
                               (p.mean2d.y - q.mean2d.y) / kHeight, p.depth / q.depth - 1,
                               (p.conic.xx - q.conic.xx) / conic, (p.conic.xy - q.conic.xy) / conic,
                               (p.conic.yy - q.conic.yy) / conic, p.opacity / q.opacity - 1}) {
      worst = Worse(worst, std::fabs(error));
    }
  }
  Report("project_gaussian: float against double", worst, 3e-6);
}

template <typename T>
void CheckCulling(const std::string& type) {
  struct Case {
    const char* name;
    bool drawn;
    std::function<void(Scene<T>&, ProjectionSettings<T>&)> change;
  };
  const T nan = std::numeric_limits<T>::quiet_NaN(), inf = std::numeric_limits<T>::infinity();
  const T eps = std::numeric_limits<T>::epsilon(), huge = std::numeric_limits<T>::max();
  const T tiny = std::numeric_limits<T>::denorm_min();
  const T cut = T(jgd::kAlphaMin);
  // The base case has cov2d.xx = 6.55 at pixel (32, 24), and with cov3d.zz = 0 everywhere; this is
  // its half-extent at opacity 0.5.
  const T extent = std::sqrt(T(2) * std::log(T(0.5 * 255)) * T(6.55));
  const T at_edge = T(32) + extent;  // pixels from the centre to just outside, on the left
  using S = Scene<T>&;
  using P = ProjectionSettings<T>&;
  const std::vector<Case> cases = {
      {"base", true, [](S, P) {}},
      {"image of one pixel", true, [](S s, P p) { p.width = p.height = 1, s.K.cx = s.K.cy = 1; }},
      {"mean nan", false, [&](S s, P) { s.mean.y = nan; }},
      {"covariance inf", false, [&](S s, P) { s.cov3d.xx = inf; }},
      {"covariance nan off the diagonal", false, [&](S s, P) { s.cov3d.xz = nan; }},
      {"opacity nan", false, [&](S s, P) { s.opacity = nan; }},
      {"opacity inf", false, [&](S s, P) { s.opacity = inf; }},
      {"opacity nan, 3 sigma", false, [&](S s, P p) { s.opacity = nan, p.three_sigma = true; }},
      {"depth at near plane", false, [](S s, P p) { p.near_plane = s.mean.z; }},
      {"depth above near plane", true, [&](S s, P p) { p.near_plane = s.mean.z * (1 - eps); }},
      {"depth at far plane", false, [](S s, P p) { p.far_plane = s.mean.z; }},
      {"depth below far plane", true, [&](S s, P p) { p.far_plane = s.mean.z * (1 + eps); }},
      {"behind the camera", false, [](S s, P) { s.mean.z = -2; }},
      {"in the camera plane", false, [](S s, P) { s.mean.z = 0; }},
      {"opacity at the cutoff", false, [&](S s, P) { s.opacity = cut; }},
      {"opacity above the cutoff", true, [&](S s, P) { s.opacity = cut * (1 + eps); }},
      {"opacity below the cutoff, 3 sigma", true,
       [](S s, P p) { s.opacity = T(1e-3), p.three_sigma = true; }},
      {"opacity 0, 3 sigma", true, [](S s, P p) { s.opacity = 0, p.three_sigma = true; }},
      {"opacity negative", false, [](S s, P) { s.opacity = T(-0.5); }},
      {"opacity compensated below the cutoff", false,
       [](S s, P p) { s.cov3d = {}, p.antialiased = true; }},
      {"zero covariance, widened", true, [](S s, P) { s.cov3d = {}; }},
      {"zero covariance, eps2d 0", false, [](S s, P p) { s.cov3d = {}, p.eps2d = 0; }},
      {"flat seen from the side, eps2d 0", false, [](S s, P p) { s.cov3d.xx = 0, p.eps2d = 0; }},
      {"flat seen from the front, eps2d 0", true, [](S s, P p) { s.cov3d.zz = 0, p.eps2d = 0; }},
      {"indefinite", false, [](S s, P) { s.cov3d.xy = T(0.02); }},
      {"negative definite", false, [](S s, P) { s.cov3d = {-1, 0, 0, -1, 0, -1}; }},
      {"negative definite, 3 sigma", false,
       [](S s, P p) { s.cov3d = {-1, 0, 0, -1, 0, -1}, p.three_sigma = true; }},
      {"conic overflows", false,
       [&](S s, P p) { s.cov3d = {1000 * tiny, 0, 0, 16, 0, 0}, p.eps2d = 0; }},
      {"covariance overflows the determinant", false,
       [&](S s, P) { s.cov3d = {huge / 4, 0, 0, huge / 4, 0, 1}; }},
      {"box reaches the left edge", true,
       [&](S s, P) { s.cov3d.zz = 0, s.mean.x = -(at_edge - T(0.01)) / 25; }},
      {"box misses the left edge", false,
       [&](S s, P) { s.cov3d.zz = 0, s.mean.x = -(at_edge + T(0.01)) / 25; }},
      {"box reaches the right edge", true,
       [&](S s, P) { s.cov3d.zz = 0, s.mean.x = (at_edge - T(0.01)) / 25; }},
      {"box misses the right edge", false,
       [&](S s, P) { s.cov3d.zz = 0, s.mean.x = (at_edge + T(0.01)) / 25; }},
      {"box misses the top", false, [&](S s, P) { s.mean.y = -at_edge / 25; }},
      {"box misses the bottom", false, [&](S s, P) { s.mean.y = at_edge / 25; }},
      {"pose rotation nan", false, [&](S s, P) { s.pose.R(0, 1) = nan; }},
      {"pose translation inf", false, [&](S s, P) { s.pose.t.x = inf; }},
      {"focal length inf", false, [&](S s, P) { s.K.fx = inf; }},
      {"focal length 0, eps2d 0", false, [](S s, P p) { s.K.fy = 0, p.eps2d = 0; }},
      {"principal point nan", false, [&](S s, P) { s.K.cy = nan; }},
  };
  for (const Case& c : cases) {
    Scene<T> s{{0, 0, 2},
               {T(0.01), 0, 0, T(0.01), 0, T(0.01)},
               T(0.5),
               {{{1, 0, 0, 0, 1, 0, 0, 0, 1}}, {0, 0, 0}},
               {50, 50, 32, 24}};
    ProjectionSettings<T> settings = Settings<T>(false, false);
    c.change(s, settings);
    const Projected<T> p = Project(s, settings);
    Expect("cull, " + type + ": " + c.name, c.drawn ? p.radius > 0 : IsCulled(p));
  }

  // Extreme values of every size: what comes out is either culled or finite.
  bool sound = true;
  int n_drawn = 0;
  const double exponent = std::is_same<T, float>::value ? 44 : 320;
  for (int trial = 0; trial < 200000; ++trial) {
    T x[26];
    const double range = trial % 2 ? exponent : 3;
    for (T& value : x) {
      value = T(Uniform(-1, 1)) * T(std::pow(10, Uniform(-range, range)));
      const int special = static_cast<int>(Uniform(0, 300));
      if (special == 0) value = nan;
      if (special == 1) value = inf;
      if (special == 2) value = 0;
    }
    ProjectionSettings<T> settings = Settings<T>(trial % 3 == 0, trial % 5 == 0);
    if (trial % 7 == 0) settings.eps2d = 0;
    const Projected<T> p = Project(Read<Scene<T>>(x), settings);
    n_drawn += p.radius > 0;
    sound = sound &&
            (IsCulled(p) ||
             (p.radius > 0 && jgd::is_finite(p.mean2d) && jgd::is_finite(p.conic) && p.depth > 0 &&
              jgd::is_finite(p.depth) && p.opacity >= (settings.three_sigma ? 0 : jgd::kAlphaMin)));
  }
  Expect("project_gaussian, " + type + ": culled or finite for extreme values",
         sound && n_drawn > 1000);
}

void CheckFootprints() {
  // Small splats in and around the image. A culled one must not reach the cutoff at any pixel; the
  // seeds' rule is compared with its integer form, in which casts truncate towards 0.
  bool exact_ok = true, tiles_ok = true;
  int n_culled[2] = {}, n_drawn[2] = {};
  for (int trial = 0; trial < 3000; ++trial) {
    Scene<double> s{
        {}, {}, Uniform(0.004, 1), {{{1, 0, 0, 0, 1, 0, 0, 0, 1}}, {0, 0, 0}}, {50, 50, 32, 24}};
    double cov[6];
    RandomCovariance(cov);
    for (double& c : cov) c *= 0.02;
    s.cov3d = Read<Sym3<double>>(cov);
    s.mean = {Uniform(-2.5, 2.5), Uniform(-2, 2), 2};
    const Jacobian<double> J = jgd::pinhole_jacobian(s.K, s.mean, kWidth, kHeight);
    const Sym2<double> cov2d = jgd::widen(jgd::project_covariance(J, s.pose.R, s.cov3d), 0.3);
    const Vec2<double> mean2d = jgd::project_point(s.K, s.mean);
    const Sym2<double> conic = jgd::inverse(cov2d);
    double alpha_max = 0;
    for (int row = 0; row < kHeight; ++row) {
      for (int column = 0; column < kWidth; ++column) {
        const double dx = column + 0.5 - mean2d.x, dy = row + 0.5 - mean2d.y;
        const double sigma = 0.5 * (conic.xx * dx * dx + conic.yy * dy * dy) + conic.xy * dx * dy;
        alpha_max = std::max(alpha_max, s.opacity * std::exp(-sigma));
      }
    }
    const bool exact = Project(s, Settings<double>(false, false)).radius > 0;
    exact_ok = exact_ok && (exact || alpha_max < jgd::kAlphaMin);
    ++(exact ? n_drawn : n_culled)[0];

    const int r = jgd::radius(cov2d, jgd::kSeedDiscriminantFloor);
    const auto tiles = [&](double mean, int size) {
      const int n = (size + 15) / 16;
      const double p = mean - 0.5;
      return std::min(n, std::max(0, static_cast<int>((p + r + 15) / 16))) -
             std::min(n, std::max(0, static_cast<int>((p - r) / 16)));
    };
    const bool seed = tiles(mean2d.x, kWidth) * tiles(mean2d.y, kHeight) > 0;
    const bool three_sigma = Project(s, Settings<double>(false, true)).radius == r;
    tiles_ok = tiles_ok && three_sigma == seed;
    ++(three_sigma ? n_drawn : n_culled)[1];
  }
  Expect("footprint exact: a culled splat reaches no pixel",
         exact_ok && n_drawn[0] > 300 && n_culled[0] > 300);
  Expect("footprint 3 sigma: drawn when the seeds' tile rectangle is not empty",
         tiles_ok && n_drawn[1] > 300 && n_culled[1] > 300);
}

}  // namespace

int main() {
  CheckQuat();
  CheckCamera();
  CheckSplat();
  CheckShBasis();
  CheckShColor();
  CheckProjectionVjp();
  CheckCulling<float>("float");
  CheckCulling<double>("double");
  CheckFootprints();
  std::printf("%d passed, %d failed\n", test::n_passed, test::n_failed);
  return test::n_failed == 0 ? 0 : 1;
}
