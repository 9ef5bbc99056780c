// Tests bin and blend with a thread pool of the test's own: the same bits for any number of
// threads, and no access outside the arrays whatever they hold. Meant to run under the sanitizers
// too.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpu/bin.h"
#include "cpu/blend.h"
#include "threads.h"

namespace {

using jgd::Batched;

template <typename T>
Batched<const T> input(const std::vector<T>& v) {
  Batched<const T> b;
  b.data = v.data();
  return b;
}

template <typename T>
Batched<T> output(std::vector<T>& v) {
  Batched<T> b;
  b.data = v.data();
  return b;
}

constexpr int64_t kCameras = 2;
constexpr int64_t kSplats = 3000;
constexpr int64_t kChannels = 5;
constexpr int kWidth = 70;
constexpr int kHeight = 90;
constexpr int64_t kPixels = kCameras * kWidth * kHeight;

template <typename T>
struct Scene {
  std::vector<T> means2d, depths, conics, opacities, colors, background;
  std::vector<int32_t> radii;

  explicit Scene(bool poisoned) {
    std::mt19937 random(7);
    const auto uniform = [&](double low, double high) {
      return static_cast<T>(std::uniform_real_distribution<double>(low, high)(random));
    };
    for (int64_t i = 0; i < kCameras * kSplats; ++i) {
      means2d.push_back(uniform(-30, 110));
      means2d.push_back(uniform(-30, 110));
      depths.push_back(uniform(1, 2));
      const T a = uniform(0.01, 1), c = uniform(0.01, 1);
      conics.insert(conics.end(), {a, uniform(-0.5, 0.5) * std::sqrt(a * c), c});
      opacities.push_back(uniform(0, 1));
      radii.push_back(5);
    }
    for (int64_t i = 0; i < kSplats * kChannels; ++i) colors.push_back(uniform(0, 1));
    for (int64_t i = 0; i < kChannels; ++i) background.push_back(uniform(0, 1));
    if (!poisoned) return;
    using Limits = std::numeric_limits<T>;
    // A finite depth or colour is never out of range by itself; only a sum of several may be.
    const T bad[] = {
        Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), Limits::min(), T(0), T(-1),
        Limits::max(),       -Limits::max()};
    const auto poison = [&](std::vector<T>& values, size_t step, size_t n_kinds) {
      for (size_t i = 0; i < values.size(); i += step) values[i] = bad[i / step % n_kinds];
    };
    poison(means2d, 7, 8);
    poison(depths, 11, 6);
    poison(conics, 13, 8);
    poison(opacities, 17, 8);
    poison(colors, 19, 6);
    for (size_t i = 0; i < radii.size(); i += 5) radii[i] = i % 2 ? -7 : 2147483647;
  }
};

// All outputs of a forward and a backward pass.
template <typename T>
struct Results {
  std::vector<int32_t> order = std::vector<int32_t>(kCameras * kSplats);
  std::vector<int32_t> tile_counts = std::vector<int32_t>(kCameras * 5 * 6);
  std::vector<int32_t> last = std::vector<int32_t>(kPixels);
  std::vector<int32_t> n_isects = std::vector<int32_t>(kCameras), n_isects_listed = n_isects;
  std::vector<T> image = std::vector<T>(kPixels * kChannels), depth = std::vector<T>(kPixels),
                 weight = depth, transmittance = depth;
  std::vector<T> v_means2d = std::vector<T>(2 * kCameras * kSplats), v_abs = v_means2d,
                 v_depths = std::vector<T>(kCameras * kSplats), v_opacities = v_depths,
                 v_conics = std::vector<T>(3 * kCameras * kSplats),
                 v_colors = std::vector<T>(kSplats * kChannels),
                 v_background = std::vector<T>(kChannels);
};

template <typename T>
Results<T> run(const Scene<T>& scene, bool three_sigma, bool garbage_order, int64_t n_threads) {
  test::Threads pool(n_threads);
  Results<T> r;
  jgd::SplatInputs<T> splats;
  splats.means2d = input(scene.means2d);
  splats.depths = input(scene.depths);
  splats.conics = input(scene.conics);
  splats.opacities = input(scene.opacities);
  splats.radii = input(scene.radii);
  splats.n = kSplats;
  splats.n_cameras = kCameras;
  splats.width = kWidth;
  splats.height = kHeight;
  splats.three_sigma = three_sigma;
  jgd::BinForward<T> bin;
  bin.in = splats;
  bin.order = output(r.order);
  bin.tile_counts = output(r.tile_counts);
  jgd::cpu::bin_forward(pool, bin);
  for (size_t i = 0; garbage_order && i < r.order.size(); i += 3) {
    r.order[i] = i % 2 ? r.order[0] : 2147483647;
  }

  jgd::BlendInputs<T> in;
  in.splats = splats;
  in.order = input(r.order);
  in.colors = input(scene.colors);
  in.background = input(scene.background);
  in.n_channels = kChannels;
  in.shared_colors = in.shared_background = true;
  jgd::BlendForward<T> forward;
  forward.in = in;
  forward.image = output(r.image);
  forward.depth = output(r.depth);
  forward.weight = output(r.weight);
  forward.transmittance = output(r.transmittance);
  forward.last = output(r.last);
  forward.n_isects = output(r.n_isects);
  forward.n_isects_listed = output(r.n_isects_listed);
  jgd::cpu::blend_forward(pool, forward);

  jgd::BlendBackward<T> backward;
  backward.in = in;
  backward.depth = input(r.depth);
  backward.weight = input(r.weight);
  backward.transmittance = input(r.transmittance);
  backward.last = input(r.last);
  backward.v_image = input(r.image);
  backward.v_depth = input(r.depth);
  backward.v_weight = input(r.weight);
  backward.v_means2d = output(r.v_means2d);
  backward.v_means2d_abs = output(r.v_abs);
  backward.v_depths = output(r.v_depths);
  backward.v_conics = output(r.v_conics);
  backward.v_opacities = output(r.v_opacities);
  backward.v_colors = output(r.v_colors);
  backward.v_background = output(r.v_background);
  jgd::cpu::blend_backward(pool, backward);
  return r;
}

template <typename T>
std::vector<const std::vector<T>*> arrays(const Results<T>& r) {
  return {&r.image,    &r.depth,    &r.weight,      &r.transmittance, &r.v_means2d,   &r.v_abs,
          &r.v_depths, &r.v_conics, &r.v_opacities, &r.v_colors,      &r.v_background};
}

int n_passed = 0, n_failed = 0;

void expect(bool ok, const char* what, bool poisoned, bool three_sigma, size_t size) {
  std::printf("%s %s (float%d%s%s)\n", ok ? "ok  " : "FAIL", what, static_cast<int>(8 * size),
              poisoned ? ", poisoned" : "", three_sigma ? ", 3 sigma" : "");
  ++(ok ? n_passed : n_failed);
}

template <typename T>
void check(bool poisoned, bool three_sigma) {
  const Scene<T> scene(poisoned);
  const Results<T> one = run(scene, three_sigma, poisoned, 1);
  const Results<T> four = run(scene, three_sigma, poisoned, 4);
  bool same = true, finite = true, drawn = false;
  for (size_t i = 0; i < arrays(one).size(); ++i) {
    const std::vector<T>& a = *arrays(one)[i];
    const std::vector<T>& b = *arrays(four)[i];
    same = same && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
    for (T value : a) finite = finite && std::isfinite(value);
  }
  for (T value : one.weight) drawn = drawn || value > T(0);
  expect(same, "the same bits with 1 and 4 threads", poisoned, three_sigma, sizeof(T));
  expect(finite, "everything is finite", poisoned, three_sigma, sizeof(T));
  expect(drawn, "something is drawn", poisoned, three_sigma, sizeof(T));
}

}  // namespace

int main() {
  for (const bool poisoned : {false, true}) {
    for (const bool three_sigma : {false, true}) {
      check<float>(poisoned, three_sigma);
      check<double>(poisoned, three_sigma);
    }
  }
  std::printf("%d passed, %d failed\n", n_passed, n_failed);
  return n_failed != 0;
}
