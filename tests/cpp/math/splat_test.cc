// Tests csrc/math/splat.h: conic, compensation and radius of the 2D Gaussian.

#include "math/splat.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "check.h"
#include "math/constants.h"
#include "math/vec.h"

namespace {

using jgd::Sym2;
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
  Expect("radius: known values, floor of the 3 sigma rule, saturation",
         jgd::radius(Sym2<double>{4, 0, 1}, 0.0) == 6 &&
             jgd::radius(Sym2<double>{1, 0, 1}, 0.0) == 3 &&
             jgd::radius(Sym2<double>{1, 0, 1}, 0.1) == 4 &&
             jgd::radius(Sym2<double>{2, 1, 2}, 0.0) == 6 &&
             jgd::radius(Sym2<float>{1e30f, 0, 1}, 0.0f) == INT32_MAX &&
             jgd::radius(Sym2<float>{inf, 0, inf}, 0.0f) == INT32_MAX &&
             jgd::radius(Sym2<float>{NAN, 0, 1}, 0.0f) == INT32_MAX);
}

}  // namespace

int main() {
  CheckSplat();
  return test::Finish();
}
