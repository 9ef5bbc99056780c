// Tests csrc/math/projection.h: the whole projection, and which Gaussians it culls.

#include "math/projection.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "check.h"
#include "math/camera.h"
#include "math/constants.h"
#include "math/splat.h"
#include "math/vec.h"
#include "random_inputs.h"

namespace {

using jgd::Jacobian;
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
using test::Uniform;
using test::Worse;
using test::Write;

// All inputs of project_gaussian except the settings, in the order of the flat inputs below.
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
  ProjectionSettings<T> settings;
  settings.near_plane = T(0.01);
  settings.far_plane = T(1e10);
  settings.eps2d = T(0.3);
  settings.width = kWidth;
  settings.height = kHeight;
  settings.antialiased = antialiased;
  settings.three_sigma = three_sigma;
  return settings;
}

template <typename T>
bool IsCulled(const Projected<T>& p) {
  return p.radius == 0 && p.mean2d.x == 0 && p.mean2d.y == 0 && p.depth == 0 && p.conic.xx == 0 &&
         p.conic.xy == 0 && p.conic.yy == 0 && p.opacity == 0;
}

// Makes a Gaussian that is drawn, and still drawn after the steps of the finite differences.
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
      {"box misses the bottom, kept", true,
       [&](S s, P p) { s.mean.y = at_edge / 25, p.keep_outside = true; }},
      {"transparent, kept", true, [](S s, P p) { s.opacity = 0, p.keep_outside = true; }},
      {"negative opacity, kept", false, [](S s, P p) { s.opacity = -1, p.keep_outside = true; }},
      {"square far outside, kept, 3 sigma", true,
       [](S s, P p) { s.mean.x = 1000, p.keep_outside = p.three_sigma = true; }},
      {"behind the camera, kept", false, [](S s, P p) { s.mean.z = -2, p.keep_outside = true; }},
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

  // Extreme values of every size: the result is either culled or finite.
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

void CheckValidShapes() {
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

void CheckFootprints() {
  // Small splats in and around the image. A culled one must not reach the cutoff at any pixel; the
  // original rasterizers' rule is compared with its integer form, in which casts truncate towards
  // 0.
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

    const int r = jgd::radius(cov2d, jgd::kThreeSigmaDiscriminantFloor);
    const auto tiles = [&](double mean, int size) {
      const int n = (size + 15) / 16;
      const double p = mean - 0.5;
      return std::min(n, std::max(0, static_cast<int>((p + r + 15) / 16))) -
             std::min(n, std::max(0, static_cast<int>((p - r) / 16)));
    };
    const bool touches = tiles(mean2d.x, kWidth) * tiles(mean2d.y, kHeight) > 0;
    const bool three_sigma = Project(s, Settings<double>(false, true)).radius == r;
    tiles_ok = tiles_ok && three_sigma == touches;
    ++(three_sigma ? n_drawn : n_culled)[1];
  }
  Expect("footprint exact: a culled splat reaches no pixel",
         exact_ok && n_drawn[0] > 300 && n_culled[0] > 300);
  Expect("footprint 3 sigma: drawn when the tile rectangle is not empty",
         tiles_ok && n_drawn[1] > 300 && n_culled[1] > 300);
}

}  // namespace

int main() {
  CheckProjectionVjp();
  CheckCulling<float>("float");
  CheckCulling<double>("double");
  CheckValidShapes();
  CheckFootprints();
  return test::Finish();
}
