// Tests csrc/math/quat.h: rotation, and covariance in the world.

#include "math/quat.h"

#include <cmath>

#include "check.h"
#include "math/vec.h"
#include "random_inputs.h"

namespace {

using jgd::Mat3;
using jgd::Quat;
using jgd::Sym3;
using jgd::Vec3;
using test::CheckVjp;
using test::Expect;
using test::RandomQuat;
using test::RandomValues;
using test::Read;
using test::Report;
using test::Scalar;
using test::Worse;
using test::Write;

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
}

}  // namespace

int main() {
  CheckQuat();
  return test::Finish();
}
