// Tests the shade kernels against the shading of single Gaussians (math/sh.h): any number of
// Gaussians and of unused coefficients, some culled, some not finite. Compiled for each instruction
// set.

#include "cpu/kernels/shade.h"

#include <limits>
#include <vector>

#include "check.h"
#include "isa.h"
#include "sh_color.h"

namespace jgd::cpu::JGD_ISA {
extern const ShadeKernels<float> kShadeFloat;
extern const ShadeKernels<double> kShadeDouble;
}  // namespace jgd::cpu::JGD_ISA

namespace {

using namespace jgd;  // NOLINT
using test::Uniform;

constexpr int64_t kCameras = 2;

template <typename T>
const cpu::ShadeKernels<T>& Kernels() {
  if constexpr (sizeof(T) == 4) return cpu::JGD_ISA::kShadeFloat;
  if constexpr (sizeof(T) == 8) return cpu::JGD_ISA::kShadeDouble;
}

// Arrays of the exact size, so that the sanitizers see any access beyond them.
template <typename T>
struct Scene {
  int64_t n;
  int degree, n_bases;
  ShConvention convention;
  std::vector<Vec3<T>> means, centers, v_colors;
  std::vector<T> sh;
  std::vector<int32_t> radii;  // empty: all are visible

  Scene(int64_t count, int degree, bool more_bases, bool with_radii)
      : n(count),
        degree(degree),
        n_bases(sh_bases(degree) + (more_bases ? 7 : 0)),
        convention(static_cast<ShConvention>(count % kShConventions)),
        sh(3 * n_bases * count) {
    const T nan = std::numeric_limits<T>::quiet_NaN(),
            infinity = std::numeric_limits<T>::infinity();
    const auto random = [](double low, double high) { return static_cast<T>(Uniform(low, high)); };
    for (T& value : sh) value = random(-0.5, 0.5);
    for (int64_t i = 0; i < n; ++i) {
      means.push_back({random(-4, 4), random(-4, 4), random(-4, 4)});
      if (i % 17 == 3) means[i] = {T(1), T(2), T(3)};  // the first camera
      if (i % 19 == 5) means[i].y = nan;
      if (i % 11 == 7) sh[3 * n_bases * i + i % (3 * sh_bases(degree))] = i % 2 ? nan : infinity;
      if (i % 13 == 9 && more_bases) sh[3 * n_bases * (i + 1) - 1] = nan;  // not in use
    }
    centers = {{T(1), T(2), T(3)}, {T(-3), T(0.5), T(5)}};
    for (int64_t j = 0; j < kCameras * n; ++j) {
      v_colors.push_back({random(-1, 1), random(-1, 1), random(-1, 1)});
      if (j % 9 == 4) v_colors[j] = {T(0), T(0), T(0)};
      if (with_radii) radii.push_back(j % 3 == 1 ? 0 : 4);
    }
  }

  cpu::ShadeScene<T> View() const {
    cpu::ShadeScene<T> scene;
    scene.means = &means[0].x;
    scene.sh = sh.data();
    scene.radii = radii.empty() ? nullptr : radii.data();
    scene.centers = centers.data();
    scene.n = n;
    scene.n_bases = n_bases;
    scene.n_cameras = kCameras;
    scene.convention = convention;
    return scene;
  }
  const T* Row(int64_t i) const { return &sh[3 * n_bases * i]; }
  bool Finite(int64_t i) const { return all_finite(Row(i), 3 * sh_bases(degree)); }
  bool Visible(int64_t j) const { return radii.empty() || radii[j] > 0; }
};

template <typename T>
void Compare(const std::vector<T>& got, const std::vector<T>& want, double& worst) {
  for (size_t i = 0; i < got.size(); ++i) {
    worst = test::Worse(worst, test::Ulps(got[i], want[i], std::max(std::fabs(want[i]), T(1))));
  }
}

template <typename T>
void CheckForward(const Scene<T>& scene, double& worst) {
  std::vector<T> got(3 * kCameras * scene.n, T(-1)), want = got;
  cpu::ShadeSceneForward<T> args;
  args.in = scene.View();
  args.colors = got.data();
  Kernels<T>().forward[scene.degree](args, 0, scene.n / 2);
  Kernels<T>().forward[scene.degree](args, scene.n / 2, scene.n);
  for (int64_t j = 0; j < kCameras * scene.n; ++j) {
    const int64_t i = j % scene.n;
    const T nan = std::numeric_limits<T>::quiet_NaN();
    Vec3<T> color{nan, nan, nan};
    if (scene.Finite(i)) {
      color = test::ShColor(scene.degree, scene.Row(i), scene.means[i] - scene.centers[j / scene.n],
                            scene.convention);
    }
    test::Write(scene.Visible(j) ? color : Vec3<T>{}, &want[3 * j]);
  }
  Compare(got, want, worst);
}

template <typename T>
void CheckBackward(const Scene<T>& scene, double& worst, double& worst_offset) {
  std::vector<T> v_means(3 * scene.n, T(-1)), v_sh(scene.sh.size(), T(-1));
  std::vector<T> want_means(v_means.size()), want_sh(v_sh.size());
  std::vector<Vec3<double>> v_offsets(kCameras), want_offsets(kCameras);
  cpu::ShadeSceneBackward<T> args;
  args.in = scene.View();
  args.v_colors = &scene.v_colors[0].x;
  args.v_means = v_means.data();
  args.v_sh = v_sh.data();
  Kernels<T>().backward[scene.degree](args, 0, scene.n, v_offsets.data());
  for (int64_t j = 0; j < kCameras * scene.n; ++j) {
    const int64_t i = j % scene.n, camera = j / scene.n;
    const Vec3<T> v_color = scene.v_colors[j];
    const bool zero = v_color.x == T(0) && v_color.y == T(0) && v_color.z == T(0);
    if (!scene.Visible(j) || !scene.Finite(i) || zero) continue;
    T v_row[3 * sh_bases(kMaxShDegree)];
    Vec3<T> v_offset;
    test::ShColorVjp(scene.degree, scene.Row(i), scene.means[i] - scene.centers[camera],
                     scene.convention, v_color, v_row, v_offset);
    for (int k = 0; k < 3 * sh_bases(scene.degree); ++k) {
      want_sh[3 * scene.n_bases * i + k] += v_row[k];
    }
    want_means[3 * i] += v_offset.x;
    want_means[3 * i + 1] += v_offset.y;
    want_means[3 * i + 2] += v_offset.z;
    want_offsets[camera] += Vec3<double>{v_offset.x, v_offset.y, v_offset.z};
  }
  Compare(v_means, want_means, worst);
  Compare(v_sh, want_sh, worst);
  for (int64_t camera = 0; camera < kCameras; ++camera) {
    const Vec3<double> error = v_offsets[camera] - want_offsets[camera];
    worst_offset = test::Worse(worst_offset, max_abs(error) / std::numeric_limits<T>::epsilon());
  }
}

template <typename T>
void Check() {
  double forward = 0, backward = 0, offset = 0;
  for (int degree = 0; degree <= kMaxShDegree; ++degree) {
    for (const int64_t n : {1, 2, 15, 16, 17, 255, 257, 700}) {
      for (int bits = 0; bits < 4; ++bits) {
        const Scene<T> scene(n, degree, (bits & 1) != 0, (bits & 2) != 0);
        CheckForward(scene, forward);
        CheckBackward(scene, backward, offset);
      }
    }
  }
  const std::string name = "shade packs, " + test::Name<T>();
  test::Report(name + ": colours, in eps", forward, 0);
  test::Report(name + ": gradients, in eps", backward, 0);
  test::Report(name + ": sums of the gradients of offsets, in eps", offset, 200);
}

}  // namespace

int main() {
  if (!test::MachineHasIsa()) return test::kSkipped;
  Check<float>();
  Check<double>();
  return test::Finish();
}
