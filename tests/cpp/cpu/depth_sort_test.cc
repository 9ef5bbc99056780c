// Tests the depth order against std::stable_sort, with one thread and with four: ties, signs,
// splats that are not drawn, pieces that are full, empty or nearly so.

#include "cpu/depth_sort.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "check.h"
#include "threads.h"

namespace {

template <typename T>
void Check(int64_t n, double part_drawn, int n_depths) {
  std::vector<T> means2d(2 * n, T(1)), conics(3 * n, T(1)), opacities(n, T(0.5)), depths(n);
  std::vector<int32_t> radii(n, 1);
  for (int64_t i = 0; i < n; ++i) {
    depths[i] = static_cast<T>(std::floor(test::Uniform(-1, 1) * n_depths)) / T(7);
    if (depths[i] == T(0) && i % 2) depths[i] = T(-0.0);
    if (test::Uniform(0, 1) < part_drawn) continue;
    if (i % 3 == 0) radii[i] = 0;
    if (i % 3 == 1) depths[i] = std::numeric_limits<T>::quiet_NaN();
    if (i % 3 == 2) opacities[i] = T(0);
  }
  jgd::SplatInputs<T> in;
  in.means2d.data = means2d.data();
  in.depths.data = depths.data();
  in.conics.data = conics.data();
  in.opacities.data = opacities.data();
  in.radii.data = radii.data();
  in.n = n;
  in.n_cameras = 1;
  const jgd::ImageSplats<T> splats(in, 0, 0);

  std::vector<int32_t> want(n);
  std::iota(want.begin(), want.end(), 0);
  std::stable_sort(want.begin(), want.end(), [&](int32_t a, int32_t b) {
    const bool drawn = splats.drawable(a);
    if (drawn != splats.drawable(b)) return drawn;
    return drawn && depths[a] < depths[b];
  });
  for (const int n_threads : {1, 4}) {
    test::Threads pool(n_threads);
    std::vector<int32_t> got(n, -1);
    jgd::cpu::depth_order(pool, splats, n, got.data());
    test::Expect("depth order of " + std::to_string(n) + " splats, " + std::to_string(part_drawn) +
                     " of them drawn, float" + std::to_string(8 * sizeof(T)) + ", threads " +
                     std::to_string(n_threads),
                 got == want);
  }
}

}  // namespace

int main() {
  for (const int64_t n : {0, 1, 2, 1000, 4095, 4096, 16384, 16385, 70001}) {
    Check<float>(n, 0.6, 1000000);
    Check<double>(n, 0.6, 1000000);
    Check<float>(n, 1, 3);
    Check<float>(n, 0, 3);
    Check<double>(n, 0.001, 3);
  }
  return test::Finish();
}
