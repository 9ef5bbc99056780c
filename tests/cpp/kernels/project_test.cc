// Tests the project kernels against the projection of single Gaussians (math/projection.h), which
// other tests compare with its definition: random Gaussians and Gaussians that cannot be drawn, any
// number of them, several cameras. Compiled for each instruction set.

#include "cpu/kernels/project.h"

#include <limits>
#include <vector>

#include "check.h"
#include "isa.h"
#include "math/quat.h"
#include "random_inputs.h"

namespace jgd::cpu::JGD_ISA {
extern const ProjectKernels<float> kProjectFloat;
extern const ProjectKernels<double> kProjectDouble;
}  // namespace jgd::cpu::JGD_ISA

namespace {

using namespace jgd;  // NOLINT
using test::Uniform;

constexpr int64_t kCameras = 2;

template <typename T>
const cpu::ProjectKernels<T>& Kernels() {
  if constexpr (sizeof(T) == 4) return cpu::JGD_ISA::kProjectFloat;
  if constexpr (sizeof(T) == 8) return cpu::JGD_ISA::kProjectDouble;
}

struct Case {
  bool antialiased, three_sigma, keep_outside, covars;
};

// Arrays of the exact size, so that the sanitizers see any access beyond them.
template <typename T>
struct Scene {
  int64_t n;
  std::vector<Vec3<T>> means, scales;
  std::vector<Quat<T>> quats;
  std::vector<Sym3<T>> covars;
  std::vector<T> opacities;
  std::vector<Pose<T>> poses;
  std::vector<Pinhole<T>> pinholes;
  ProjectionSettings<T> settings;

  Scene(int64_t count, const Case& c, bool poisoned) : n(count) {
    settings.near_plane = T(0.1);
    settings.far_plane = T(100);
    settings.eps2d = T(0.3);
    settings.width = test::kWidth;
    settings.height = test::kHeight;
    settings.antialiased = c.antialiased;
    settings.three_sigma = c.three_sigma;
    settings.keep_outside = c.keep_outside;
    using Limits = std::numeric_limits<T>;
    const T bad[] = {Limits::quiet_NaN(),
                     Limits::infinity(),
                     -Limits::infinity(),
                     Limits::max(),
                     -Limits::max(),
                     Limits::min(),
                     T(0),
                     T(-1)};
    const auto random = [](double low, double high) { return static_cast<T>(Uniform(low, high)); };
    for (int64_t i = 0; i < n; ++i) {
      double q[4];
      test::RandomQuat(q);
      means.push_back({random(-4, 4), random(-4, 4), random(-2, 12)});
      quats.push_back({T(q[0]), T(q[1]), T(q[2]), T(q[3])});
      scales.push_back({random(0.001, 0.5), random(0.001, 0.5), random(0.001, 0.5)});
      opacities.push_back(i % 7 == 3 ? T(0) : random(0, 1));
      covars.push_back(covariance(quats[i], scales[i]));
      // One entry of every third Gaussian is bad, each time another one.
      const int64_t k = i / 3;
      if (!poisoned || i % 3 != 1) continue;
      T* entries[] = {&means[i].x,  &means[i].z,   &quats[i].w,   &quats[i].z,
                      &scales[i].x, &covars[i].xx, &covars[i].yz, &opacities[i]};
      *entries[k / 8 % 8] = bad[k % 8];
      if (k % 5 == 0) quats[i] = {0, 0, 0, 0};
    }
    for (int64_t camera = 0; camera < kCameras; ++camera) {
      double K[4], R[9];
      test::RandomCamera(K);
      test::RandomRotation(R);
      if (camera == 0) test::Write(Mat3<double>{{1, 0, 0, 0, 1, 0, 0, 0, 1}}, R);
      Pose<T> pose{{}, {T(0.1), T(-0.2), T(camera)}};
      for (int i = 0; i < 9; ++i) pose.R.m[i] = static_cast<T>(R[i]);
      poses.push_back(pose);
      pinholes.push_back({T(K[0]), T(K[1]), T(K[2]), T(K[3])});
    }
    if (!c.covars) covars.clear();
  }

  cpu::ProjectScene<T> View() const {
    const bool has_covars = !covars.empty();
    cpu::ProjectScene<T> scene;
    scene.means = &means[0].x;
    scene.quats = has_covars ? nullptr : &quats[0].w;
    scene.scales = has_covars ? nullptr : &scales[0].x;
    scene.covars = has_covars ? &covars[0].xx : nullptr;
    scene.opacities = opacities.data();
    scene.poses = poses.data();
    scene.pinholes = pinholes.data();
    scene.n = n;
    scene.n_cameras = kCameras;
    scene.settings = settings;
    return scene;
  }

  bool Covariance(int64_t i, Sym3<T>& cov3d) const {
    if (!covars.empty()) {
      cov3d = covars[i];
      return true;
    }
    cov3d = covariance(quats[i], scales[i]);
    return valid_quat_scale(quats[i], scales[i]);
  }
};

// Updates the worst difference of two arrays of structs of scalars, relative to the largest entry
// of each struct.
template <typename T, typename S>
void Compare(const std::vector<S>& got, const std::vector<S>& want, double& worst) {
  constexpr int kEntries = sizeof(S) / sizeof(T);
  for (size_t i = 0; i < got.size(); ++i) {
    T a[kEntries], b[kEntries], size = std::numeric_limits<T>::min();
    test::Write(got[i], a);
    test::Write(want[i], b);
    for (T entry : b) size = std::max(size, std::fabs(entry));
    for (int k = 0; k < kEntries; ++k) worst = test::Worse(worst, test::Ulps(a[k], b[k], size));
  }
}

template <typename T>
struct Splats {
  std::vector<Vec2<T>> means2d;
  std::vector<T> depths, opacities;
  std::vector<Sym2<T>> conics;
  std::vector<int32_t> radii;
  explicit Splats(int64_t n) : means2d(n), depths(n), opacities(n), conics(n), radii(n, -1) {}
};

template <typename T>
Splats<T> CheckForward(const Scene<T>& scene, double& worst, int& n_flips, int& n_drawn) {
  Splats<T> got(kCameras * scene.n), want = got;
  cpu::ProjectSceneForward<T> args;
  args.in = scene.View();
  args.means2d = &got.means2d[0].x;
  args.depths = got.depths.data();
  args.conics = &got.conics[0].xx;
  args.opacities = got.opacities.data();
  args.radii = got.radii.data();
  // Two ranges, as if for two threads.
  const int64_t middle = scene.n / 2;
  Kernels<T>().forward(args, 0, middle);
  Kernels<T>().forward(args, middle, scene.n);
  for (int64_t j = 0; j < kCameras * scene.n; ++j) {
    const int64_t i = j % scene.n, camera = j / scene.n;
    Projected<T> p{};
    Sym3<T> cov3d;
    if (scene.Covariance(i, cov3d)) {
      p = project_gaussian(scene.means[i], cov3d, scene.opacities[i], scene.poses[camera],
                           scene.pinholes[camera], scene.settings);
    }
    want.means2d[j] = p.mean2d;
    want.depths[j] = p.depth;
    want.conics[j] = p.conic;
    want.opacities[j] = p.opacity;
    want.radii[j] = p.radius;
    n_flips += got.radii[j] != p.radius;
    n_drawn += p.radius > 0;
  }
  Compare<T>(got.means2d, want.means2d, worst);
  Compare<T>(got.depths, want.depths, worst);
  Compare<T>(got.conics, want.conics, worst);
  Compare<T>(got.opacities, want.opacities, worst);
  return got;
}

template <typename T>
struct Gradients {
  std::vector<Vec3<T>> means, scales;
  std::vector<Quat<T>> quats;
  std::vector<Sym3<T>> covars;
  std::vector<T> opacities;
  std::vector<cpu::CameraGradient> cameras{kCameras};
  explicit Gradients(int64_t n) : means(n), scales(n), quats(n), covars(n), opacities(n) {}
};

template <typename T>
void CheckBackward(const Scene<T>& scene, const Splats<T>& splats, double& worst,
                   double& worst_camera) {
  const bool has_covars = !scene.covars.empty();
  Splats<T> v(kCameras * scene.n);
  for (int64_t j = 0; j < kCameras * scene.n; ++j) {
    const auto random = [] { return static_cast<T>(Uniform(-1, 1)); };
    // A culled Gaussian may have any cotangent.
    const T factor = splats.radii[j] > 0 ? T(1) : std::numeric_limits<T>::quiet_NaN();
    v.means2d[j] = {factor * random(), random()};
    v.depths[j] = factor * random();
    v.conics[j] = {random(), factor * random(), random()};
    v.opacities[j] = random();
  }
  Gradients<T> got(scene.n), want(scene.n);
  cpu::ProjectSceneBackward<T> args;
  args.in = scene.View();
  args.radii = splats.radii.data();
  args.v_means2d = &v.means2d[0].x;
  args.v_depths = v.depths.data();
  args.v_conics = &v.conics[0].xx;
  args.v_splat_opacities = v.opacities.data();
  args.v_means = &got.means[0].x;
  args.v_quats = has_covars ? nullptr : &got.quats[0].w;
  args.v_scales = has_covars ? nullptr : &got.scales[0].x;
  args.v_covars = has_covars ? &got.covars[0].xx : nullptr;
  args.v_opacities = got.opacities.data();
  Kernels<T>().backward(args, 0, scene.n, got.cameras.data());
  double size = 0;
  for (int64_t j = 0; j < kCameras * scene.n; ++j) {
    const int64_t i = j % scene.n, camera = j / scene.n;
    Sym3<T> cov3d, v_cov3d;
    if (splats.radii[j] <= 0 || !scene.Covariance(i, cov3d)) continue;
    Vec3<T> v_mean, v_scale;
    Quat<T> v_quat;
    T v_opacity;
    Pose<T> v_pose;
    Pinhole<T> v_K;
    project_gaussian_vjp(scene.means[i], cov3d, scene.opacities[i], scene.poses[camera],
                         scene.pinholes[camera], scene.settings,
                         {v.means2d[j], v.depths[j], v.conics[j], v.opacities[j]}, v_mean, v_cov3d,
                         v_opacity, v_pose, v_K);
    covariance_vjp(scene.quats[i], scene.scales[i], v_cov3d, v_quat, v_scale);
    want.means[i] += v_mean;
    want.opacities[i] += v_opacity;
    if (has_covars) want.covars[i] += v_cov3d;
    if (!has_covars) want.quats[i] += v_quat;
    if (!has_covars) want.scales[i] += v_scale;
    want.cameras[camera].add(v_pose);
    want.cameras[camera].add(v_K);
    for (T entry : v_pose.R.m) size += std::fabs(static_cast<double>(entry));
  }
  Compare<T>(got.means, want.means, worst);
  Compare<T>(got.quats, want.quats, worst);
  Compare<T>(got.scales, want.scales, worst);
  Compare<T>(got.covars, want.covars, worst);
  Compare<T>(got.opacities, want.opacities, worst);
  for (int64_t camera = 0; camera < kCameras; ++camera) {
    double a[16], b[16];
    test::Write(got.cameras[camera], a);
    test::Write(want.cameras[camera], b);
    for (int k = 0; k < 16; ++k) {
      worst_camera = test::Worse(worst_camera, test::Ulps(T(a[k]), T(b[k]), T(size)));
    }
  }
}

template <typename T>
void Check() {
  // Only logarithms round differently from a scalar; so does fma on x86 without the instruction.
  double forward = 0, backward = 0, camera = 0;
  int n_flips = 0, n_drawn = 0;
  for (int bits = 0; bits < 16; ++bits) {
    const Case c{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0};
    for (const int64_t n : {1, 2, 15, 16, 17, 31, 600}) {
      for (const bool poisoned : {false, true}) {
        const Scene<T> scene(n, c, poisoned);
        const Splats<T> splats = CheckForward(scene, forward, n_flips, n_drawn);
        // The largest covariances have gradients that overflow, one by one and in the sums.
        double ignored = 0;
        CheckBackward(scene, splats, backward, poisoned ? ignored : camera);
      }
    }
  }
  const std::string name = "project packs, " + test::Name<T>();
  test::Expect(name + ": something is drawn", n_drawn > 1000);
  test::Report(name + ": other radius, number of splats", n_flips, 0);
  test::Report(name + ": splats, in eps", forward, 4);
  test::Report(name + ": gradients, in eps of the largest", backward, 16);
  test::Report(name + ": camera gradients, in eps of the sum of sizes", camera, 4);
}

}  // namespace

int main() {
  if (!test::MachineHasIsa()) return test::kSkipped;
  Check<float>();
  Check<double>();
  return test::Finish();
}
