// Tests csrc/math/blend.h: one splat at one pixel, and the gradient of its moments.

#include "math/blend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check.h"

namespace {

using jgd::Exponent;
using jgd::SplatGradient;
using jgd::Sym2;
using jgd::Vec2;
using test::CheckVjp;
using test::Expect;
using test::RandomValues;
using test::Report;
using test::Scalar;
using test::Uniform;
using test::Worse;

constexpr int kPixels = 5;

// Makes a splat near the pixels below: centre, conic with a ratio of the axes up to 30, opacity,
// depth.
void RandomSplat(double* x) {
  RandomValues(x, 2, -2, 2);
  const double angle = Uniform(0, 3.2), c = std::cos(angle), s = std::sin(angle);
  const double p = Uniform(0.01, 0.3), q = p * Uniform(1, 900) / 900;
  x[2] = p * c * c + q * s * s;
  x[3] = (p - q) * c * s;
  x[4] = p * s * s + q * c * c;
  x[5] = Uniform(0.02, 1);
  x[6] = Uniform(0.5, 5);
}

Vec2<double> Pixel(int i) { return {1.5 * std::cos(2.0 * i), 0.7 * i - 1.5}; }

template <typename T>
T Alpha(const T* x, int pixel) {
  const T dx = T(Pixel(pixel).x) - x[0], dy = T(Pixel(pixel).y) - x[1];
  return x[5] * std::exp(-(T(0.5) * (x[2] * dx * dx + x[4] * dy * dy) + x[3] * dx * dy));
}

// Measures errors in units of the rounding of log2_alpha, which is a sum.
template <typename T>
void CheckExponent(const std::string& type) {
  double worst = 0, worst_slope = 0;
  for (int trial = 0; trial < 10000; ++trial) {
    double x[7];
    RandomSplat(x);
    const Sym2<T> conic{T(x[2]), T(x[3]), T(x[4])};
    const T opacity = T(x[5]), dx = T(Uniform(-20, 20)), dy = T(Uniform(-20, 20));
    const Exponent<T> e = jgd::make_exponent(conic, opacity);
    const long double a = conic.xx, b = conic.xy, c = conic.yy, u = dx, v = dy;
    const long double sigma = (a * u * u + c * v * v) / 2 + b * u * v;
    const long double want = std::log2(static_cast<long double>(opacity) * std::exp(-sigma));
    const long double terms =
        1.5L * (a * u * u / 2 + std::fabs(b * u * v) + c * v * v / 2) - std::log2(opacity);
    const long double unit = jgd::kEpsilon<T> * terms;
    worst = Worse(worst, static_cast<double>(std::fabs(log2_alpha(e, dx, dy) - want) / unit));
    // The absolute moments take their slopes from the exponent, in units of log2.
    const long double slope = 2 * static_cast<long double>(e.xx) * u + e.xy * v;
    const long double size = a * std::fabs(u) + std::fabs(b * v);
    const long double error = std::fabs(slope * std::log(2.0L) + (a * u + b * v)) / size;
    worst_slope = Worse(worst_slope, static_cast<double>(error / jgd::kEpsilon<T>));
  }
  Report("log2_alpha, " + type + ", roundings", worst, 2);
  Report("slope of the exponent, " + type + ", roundings", worst_slope, 2);
}

template <typename T>
void CheckSeen(const std::string& type) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const T infinity = std::numeric_limits<T>::infinity();
  const Exponent<T> e = jgd::make_exponent(Sym2<T>{T(1), T(0), T(1)}, T(0.5));
  Expect("at the centre, " + type, seen(e, log2_alpha(e, T(0), T(0))));
  Expect("at the cutoff, " + type, seen(e, T(jgd::kLog2AlphaMin)));
  Expect("below the cutoff, " + type, !seen(e, std::nextafter(T(jgd::kLog2AlphaMin), -infinity)));
  Expect("above the opacity, " + type, !seen(e, std::nextafter(e.log2_opacity, infinity)));
  Expect("NaN, " + type, !seen(e, nan) && !seen(e, log2_alpha(e, nan, T(0))));
  // sigma < 0 along the diagonal: such a conic must not draw more than its opacity.
  const Exponent<T> saddle = jgd::make_exponent(Sym2<T>{T(1), T(-3), T(1)}, T(0.5));
  Expect("sigma < 0, " + type, !seen(saddle, log2_alpha(saddle, T(1), T(1))));
}

void CheckGradient() {
  CheckVjp(
      "splat_gradient", 7, kPixels + 1, RandomSplat,
      [](const auto* x, auto* y) {
        for (int i = 0; i < kPixels; ++i) y[i] = Alpha(x, i);
        y[kPixels] = x[6];
      },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        T m[jgd::kMoments] = {};
        T abs_x = T(0), abs_y = T(0);
        const Sym2<T> conic{x[2], x[3], x[4]};
        const Exponent<T> e = jgd::make_exponent(conic, x[5]);
        for (int i = 0; i < kPixels; ++i) {
          const T dx = T(Pixel(i).x) - x[0], dy = T(Pixel(i).y) - x[1];
          const T s = -v[i] * Alpha(x, i);
          m[jgd::kMoment0] += s;
          m[jgd::kMomentX] += s * dx;
          m[jgd::kMomentY] += s * dy;
          m[jgd::kMomentXX] += s * dx * dx;
          m[jgd::kMomentXY] += s * dx * dy;
          m[jgd::kMomentYY] += s * dy * dy;
          m[jgd::kMomentAbsX] += std::fabs(s * (T(2) * e.xx * dx + e.xy * dy));
          m[jgd::kMomentAbsY] += std::fabs(s * (e.xy * dx + T(2) * e.yy * dy));
          abs_x += std::fabs(s * (conic.xx * dx + conic.xy * dy));
          abs_y += std::fabs(s * (conic.xy * dx + conic.yy * dy));
        }
        m[jgd::kMomentDepth] = v[kPixels];
        const SplatGradient<T> r = jgd::splat_gradient(conic, x[5], m);
        const T gradients[7] = {r.mean2d.x, r.mean2d.y, r.conic.xx, r.conic.xy,
                                r.conic.yy, r.opacity,  r.depth};
        std::copy(gradients, gradients + 7, g);
        // The absolute moments are no derivative of y, so their error makes the other check fail.
        const T bound = T(100) * jgd::kEpsilon<T>;
        if (!(std::fabs(r.mean2d_abs.x - abs_x) <= bound * (abs_x + std::fabs(m[jgd::kMoment0]))) ||
            !(std::fabs(r.mean2d_abs.y - abs_y) <= bound * (abs_y + std::fabs(m[jgd::kMoment0])))) {
          g[0] = std::numeric_limits<T>::quiet_NaN();
        }
      });
}

// Checks the weights of a sequence of splats, the transmittance behind them, and the way back.
void CheckSteps() {
  constexpr int kSplats = 6;
  CheckVjp(
      "blend_step", kSplats, kSplats + 1, [](double* x) { RandomValues(x, kSplats, 0.01, 0.7); },
      [](const auto* x, auto* y) {
        using T = Scalar<decltype(y)>;
        T transmittance = T(1);
        for (int i = 0; i < kSplats; ++i) {
          const auto step = jgd::blend_step<T>(x[i], transmittance);
          y[i] = step.w;
          transmittance = step.transmittance;
        }
        y[kSplats] = transmittance;
      },
      [](const auto* x, const auto* v, auto* g) {
        using T = Scalar<decltype(g)>;
        T transmittance = T(1);
        for (int i = 0; i < kSplats; ++i) {
          transmittance = jgd::blend_step<T>(x[i], transmittance).transmittance;
        }
        T behind = transmittance * v[kSplats];
        for (int i = kSplats - 1; i >= 0; --i) {
          const auto step =
              jgd::blend_step_vjp<T>(x[i], T(1) / (T(1) - x[i]), v[i], transmittance, behind);
          transmittance = step.transmittance;
          behind = step.behind;
          g[i] = step.v_alpha;
        }
      });
}

template <typename T>
void CheckEnd(const std::string& type) {
  const T alpha = T(jgd::kAlphaMax);
  const auto first = jgd::blend_step(alpha, T(1));
  Expect("takes its part, " + type, !first.ends && first.w == alpha);
  const auto last = jgd::blend_step(alpha, first.transmittance * T(0.99));
  Expect("ends below the limit, " + type, last.ends && last.w == T(0));
  Expect("keeps the light, " + type, last.transmittance == first.transmittance * T(0.99));
  const auto none = jgd::blend_step(T(0), T(0.5));
  Expect("alpha 0 changes nothing, " + type,
         !none.ends && none.w == T(0) && none.transmittance == T(0.5));
  Expect("median, " + type, jgd::is_median(T(1), T(0.5)) && jgd::is_median(T(0.6), T(0.1)));
  Expect("not the median, " + type, !jgd::is_median(T(1), T(0.51)) &&
                                        !jgd::is_median(T(0.5), T(0.4)) &&
                                        !jgd::is_median(T(0.5), T(0.5)));
}

template <typename T>
void CheckDepthKey(const std::string& type) {
  const T tiny = std::numeric_limits<T>::denorm_min(), huge = std::numeric_limits<T>::max();
  const std::vector<T> ascending = {-huge,  T(-2), T(-1),      -tiny,         T(0), tiny,
                                    T(0.5), T(1),  T(1.00001), T(1000000000), huge};
  bool ordered = true;
  for (size_t i = 0; i + 1 < ascending.size(); ++i) {
    ordered &= jgd::depth_key(ascending[i]) < jgd::depth_key(ascending[i + 1]);
  }
  Expect("depth_key ascends, " + type, ordered);
  Expect("depth_key of -0 is that of 0, " + type, jgd::depth_key(-T(0)) == jgd::depth_key(T(0)));
}

// Checks that may_be_seen is true wherever a pixel of the box is seen, and rarely where none is:
// for discs to needles as long as a large image, placed so that the box is near the rim.
template <typename T>
void CheckMayBeSeen(const std::string& type, double most_kept) {
  constexpr int kSide = 8;
  int64_t n_wrong = 0, n_kept = 0, n_seen = 0;
  for (int trial = 0; trial < 200000; ++trial) {
    const double longer = trial % 3 ? std::exp(Uniform(-1, 6)) : std::exp(Uniform(2, 9));
    const double shorter = trial % 3 ? std::exp(Uniform(-1, 3)) : 0.55;
    const double angle = Uniform(0, 3.2), c = std::cos(angle), s = std::sin(angle);
    const double p = 1 / (longer * longer), q = 1 / (shorter * shorter);
    const Sym2<T> conic{T(c * c * p + s * s * q), T(c * s * (p - q)), T(s * s * p + c * c * q)};
    const Exponent<T> e = jgd::make_exponent(conic, T(Uniform(0.004, 1)));
    const double reach = 3.5 * (trial % 2 ? longer : shorter);
    const Vec2<T> center{T(Uniform(-reach, reach)), T(Uniform(-reach, reach))};
    bool any_seen = false;
    for (int i = 0; i < kSide * kSide; ++i) {
      const T dx = T(i % kSide) + T(0.5) - center.x, dy = T(i / kSide) + T(0.5) - center.y;
      any_seen |= seen(e, log2_alpha(e, dx, dy));
    }
    const T low = T(0.5), high = T(kSide) - T(0.5);
    const bool kept = jgd::may_be_seen(e, center, {low, low}, {high, high});
    n_wrong += any_seen && !kept;
    n_kept += kept;
    n_seen += any_seen;
  }
  Expect("may_be_seen, " + type, n_wrong == 0);
  Report("may_be_seen, kept for each seen, " + type, double(n_kept) / double(n_seen), most_kept);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const Exponent<T> saddle = jgd::make_exponent(Sym2<T>{T(1), T(-3), T(1)}, T(0.5));
  Expect("may_be_seen of a saddle, " + type,
         jgd::may_be_seen(saddle, Vec2<T>{T(99), T(0)}, Vec2<T>{T(0), T(0)}, Vec2<T>{T(1), T(1)}));
  Expect("may_be_seen of NaN, " + type,
         jgd::may_be_seen(saddle, Vec2<T>{nan, nan}, Vec2<T>{T(0), T(0)}, Vec2<T>{T(1), T(1)}));
}

}  // namespace

int main() {
  CheckExponent<float>("float");
  CheckExponent<double>("double");
  CheckSeen<float>("float");
  CheckSeen<double>("double");
  CheckMayBeSeen<float>("float", 1.2);
  CheckMayBeSeen<double>("double", 1.002);
  CheckSteps();
  CheckEnd<float>("float");
  CheckEnd<double>("double");
  CheckGradient();
  CheckDepthKey<float>("float");
  CheckDepthKey<double>("double");
  return test::Finish();
}
