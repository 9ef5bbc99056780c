// Tests that every driver survives the failure of any of its allocations: it says what was wanted
// for what, leaves neither memory nor a running thread behind, and the next call gives the same
// bits. One allocation after the other fails, alone or with all later ones, until the call ends
// well. Meant to run under the sanitizers too.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/bin.h"
#include "cpu/blend.h"
#include "cpu/project.h"
#include "cpu/shade.h"
#include "cpu/weights.h"
#include "threads.h"

namespace {

// The program's memory: how many blocks are in use, and which allocations fail.
std::atomic<int64_t> n_blocks{0};
std::atomic<int64_t> n_good{0};  // allocations before the first that fails
std::atomic<int64_t> n_bad{0};   // allocations that fail then
std::atomic<int64_t> n_failures{0};

void* allocate(size_t size) noexcept {
  if (n_bad > 0 && n_good.fetch_sub(1) <= 0 && n_bad.fetch_sub(1) > 0) {
    ++n_failures;
    return nullptr;
  }
  void* memory = std::malloc(size > 0 ? size : 1);
  if (memory) ++n_blocks;
  return memory;
}

void* allocate_or_throw(size_t size) {
  void* memory = allocate(size);
  if (!memory) throw std::bad_alloc();
  return memory;
}

void release(void* memory) noexcept {
  if (memory) --n_blocks;
  std::free(memory);
}

}  // namespace

void* operator new(size_t size) { return allocate_or_throw(size); }
void* operator new[](size_t size) { return allocate_or_throw(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, size_t) noexcept { release(memory); }
void operator delete[](void* memory, size_t) noexcept { release(memory); }

namespace {

using jgd::Batched;
using jgd::cpu::ThreadPool;

constexpr int64_t kCameras = 2;
constexpr int64_t kGaussians = 2500;  // two ranges of project and three pieces of the tile index
constexpr int kWidth = 40, kHeight = 24;
constexpr int64_t kPixels = kCameras * kWidth * kHeight;
constexpr int64_t kBases = 4;
constexpr int64_t kContributors = 2;

std::vector<float> random_values(int64_t n, double low, double high) {
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(test::Uniform(low, high));
  return values;
}

template <typename T>
Batched<const T> input(const std::vector<T>& values) {
  Batched<const T> array;
  array.data = values.data();
  return array;
}

// The arrays that the stages hand on to each other, and those that they are made of.
struct Arrays {
  std::vector<float> means = random_values(3 * kGaussians, -1, 1);
  std::vector<float> quats = random_values(4 * kGaussians, 0.1, 1);
  std::vector<float> scales = random_values(3 * kGaussians, 0.01, 0.1);
  std::vector<float> opacities = random_values(kGaussians, 0.1, 0.9);
  std::vector<float> sh = random_values(3 * kBases * kGaussians, -0.3, 0.6);
  std::vector<float> background = random_values(3, 0, 1);
  std::vector<float> viewmat, K;

  std::vector<float> means2d = std::vector<float>(2 * kCameras * kGaussians), v_means2d = means2d;
  std::vector<float> depths = std::vector<float>(kCameras * kGaussians), splat_opacities = depths,
                     v_depths = depths, v_splat_opacities = depths;
  std::vector<float> conics = std::vector<float>(3 * kCameras * kGaussians), v_conics = conics,
                     colors = conics, v_colors = conics;
  std::vector<int32_t> radii = std::vector<int32_t>(kCameras * kGaussians), order = radii;
  std::vector<int32_t> tile_counts = std::vector<int32_t>(kCameras * 3 * 2);
  std::vector<float> image = std::vector<float>(3 * kPixels);
  std::vector<float> depth = std::vector<float>(kPixels), weight = depth, transmittance = depth;
  std::vector<int32_t> last = std::vector<int32_t>(kPixels);
  std::vector<float> weights = std::vector<float>(kContributors * kPixels);
  std::vector<int32_t> ids = std::vector<int32_t>(kContributors * kPixels);
  std::vector<float> largest = depths, total = depths;
  std::vector<int32_t> n_pixels = radii;
  std::vector<int32_t> n_isects = std::vector<int32_t>(kCameras), n_isects_listed = n_isects;
  std::vector<float> v_background = background;
  std::vector<float> v_means = means, v_quats = quats, v_scales = scales, v_opacities = opacities;
  std::vector<float> v_shade_means = means, v_sh = sh;
  std::vector<float> v_viewmat, v_shade_viewmat, v_K;

  Arrays() {
    for (int64_t camera = 0; camera < kCameras; ++camera) {
      const float z = 3.0f + static_cast<float>(camera);
      viewmat.insert(viewmat.end(), {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, z, 0, 0, 0, 1});
      K.insert(K.end(), {40, 0, kWidth / 2, 0, 40, kHeight / 2, 0, 0, 1});
    }
    v_viewmat = v_shade_viewmat = viewmat;
    v_K = K;
  }
};

// A driver, as a call whose results are copied.
struct Driver {
  std::string name;
  std::function<void(ThreadPool&)> call;
  std::vector<std::vector<float>*> results;
  std::vector<std::vector<int32_t>*> int_results;

  std::vector<std::vector<float>> copy() const {
    std::vector<std::vector<float>> copies;
    for (const auto* values : results) copies.push_back(*values);
    for (const auto* values : int_results) copies.emplace_back(values->begin(), values->end());
    return copies;
  }
  void clear() const {
    for (auto* values : results) std::fill(values->begin(), values->end(), -1.0f);
    for (auto* values : int_results) std::fill(values->begin(), values->end(), -1);
  }
};

// Nested vectors of floats have the same bits.
bool same(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  bool equal = a.size() == b.size();
  for (size_t i = 0; equal && i < a.size(); ++i) {
    equal = std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) == 0;
  }
  return equal;
}

Batched<float> output(std::vector<float>& values) { return {values.data(), {}}; }
Batched<int32_t> output(std::vector<int32_t>& values) { return {values.data(), {}}; }

// All drivers, in the order in which their results are needed.
std::vector<Driver> drivers(Arrays& a) {
  jgd::ProjectInputs<float> project;
  project.means = input(a.means);
  project.quats = input(a.quats);
  project.scales = input(a.scales);
  project.opacities = input(a.opacities);
  project.viewmat = input(a.viewmat);
  project.K = input(a.K);
  project.n = kGaussians;
  project.n_cameras = kCameras;
  project.settings = {0.01f, 1e10f, 0.3f, kWidth, kHeight, false, false, false};
  jgd::ProjectForward<float> project_forward;
  project_forward.in = project;
  project_forward.means2d = output(a.means2d);
  project_forward.depths = output(a.depths);
  project_forward.conics = output(a.conics);
  project_forward.opacities = output(a.splat_opacities);
  project_forward.radii = output(a.radii);
  jgd::ProjectBackward<float> project_backward;
  project_backward.in = project;
  project_backward.radii = input(a.radii);
  project_backward.v_means2d = input(a.v_means2d);
  project_backward.v_depths = input(a.v_depths);
  project_backward.v_conics = input(a.v_conics);
  project_backward.v_splat_opacities = input(a.v_splat_opacities);
  project_backward.v_means = output(a.v_means);
  project_backward.v_quats = output(a.v_quats);
  project_backward.v_scales = output(a.v_scales);
  project_backward.v_opacities = output(a.v_opacities);
  project_backward.v_viewmat = output(a.v_viewmat);
  project_backward.v_K = output(a.v_K);

  jgd::ShadeInputs<float> shade;
  shade.means = input(a.means);
  shade.sh = input(a.sh);
  shade.viewmat = input(a.viewmat);
  shade.radii = input(a.radii);
  shade.n = kGaussians;
  shade.n_bases = kBases;
  shade.n_cameras = kCameras;
  shade.degree = 1;
  const jgd::ShadeForward<float> shade_forward{shade, output(a.colors)};
  jgd::ShadeBackward<float> shade_backward;
  shade_backward.in = shade;
  shade_backward.v_colors = input(a.v_colors);
  shade_backward.v_means = output(a.v_shade_means);
  shade_backward.v_sh = output(a.v_sh);
  shade_backward.v_viewmat = output(a.v_shade_viewmat);

  jgd::SplatInputs<float> splats;
  splats.means2d = input(a.means2d);
  splats.depths = input(a.depths);
  splats.conics = input(a.conics);
  splats.opacities = input(a.splat_opacities);
  splats.radii = input(a.radii);
  splats.n = kGaussians;
  splats.n_cameras = kCameras;
  splats.width = kWidth;
  splats.height = kHeight;
  jgd::BinForward<float> bin;
  bin.in = splats;
  bin.order = output(a.order);
  bin.tile_counts = output(a.tile_counts);

  jgd::BlendInputs<float> blend;
  blend.splats = splats;
  blend.order = input(a.order);
  blend.colors = input(a.colors);
  blend.background = input(a.background);
  blend.n_channels = 3;
  blend.shared_background = true;
  jgd::BlendForward<float> blend_forward;
  blend_forward.in = blend;
  blend_forward.image = output(a.image);
  blend_forward.depth = output(a.depth);
  blend_forward.weight = output(a.weight);
  blend_forward.transmittance = output(a.transmittance);
  blend_forward.last = output(a.last);
  blend_forward.n_isects = output(a.n_isects);
  blend_forward.n_isects_listed = output(a.n_isects_listed);
  jgd::BlendBackward<float> blend_backward;
  blend_backward.in = blend;
  blend_backward.depth = input(a.depth);
  blend_backward.weight = input(a.weight);
  blend_backward.transmittance = input(a.transmittance);
  blend_backward.last = input(a.last);
  blend_backward.v_image = input(a.image);
  blend_backward.v_depth = input(a.depth);
  blend_backward.v_weight = input(a.weight);
  blend_backward.v_means2d = output(a.v_means2d);
  blend_backward.v_depths = output(a.v_depths);
  blend_backward.v_conics = output(a.v_conics);
  blend_backward.v_opacities = output(a.v_splat_opacities);
  blend_backward.v_colors = output(a.v_colors);
  blend_backward.v_background = output(a.v_background);

  jgd::WeightsForward<float> weights;
  weights.in.splats = splats;
  weights.in.order = input(a.order);
  weights.k = kContributors;
  weights.ids = output(a.ids);
  weights.weights = output(a.weights);
  weights.largest = output(a.largest);
  weights.total = output(a.total);
  weights.n_pixels = output(a.n_pixels);

  using namespace jgd::cpu;
  return {
      {"project",
       [=](ThreadPool& pool) { jgd::cpu::project_forward(pool, project_forward); },
       {&a.means2d, &a.depths, &a.conics, &a.splat_opacities},
       {&a.radii}},
      {"shade",
       [=](ThreadPool& pool) { jgd::cpu::shade_forward(pool, shade_forward); },
       {&a.colors},
       {}},
      {"bin", [=](ThreadPool& pool) { bin_forward(pool, bin); }, {}, {&a.order, &a.tile_counts}},
      {"blend",
       [=](ThreadPool& pool) { jgd::cpu::blend_forward(pool, blend_forward); },
       {&a.image, &a.depth, &a.weight, &a.transmittance},
       {&a.last, &a.n_isects, &a.n_isects_listed}},
      {"weights",
       [=](ThreadPool& pool) { jgd::cpu::weights_forward(pool, weights); },
       {&a.weights, &a.largest, &a.total},
       {&a.ids, &a.n_pixels}},
      {"blend backward",
       [=](ThreadPool& pool) { jgd::cpu::blend_backward(pool, blend_backward); },
       {&a.v_means2d, &a.v_depths, &a.v_conics, &a.v_splat_opacities, &a.v_colors, &a.v_background},
       {}},
      {"shade backward",
       [=](ThreadPool& pool) { jgd::cpu::shade_backward(pool, shade_backward); },
       {&a.v_shade_means, &a.v_sh, &a.v_shade_viewmat},
       {}},
      {"project backward",
       [=](ThreadPool& pool) { jgd::cpu::project_backward(pool, project_backward); },
       {&a.v_means, &a.v_quats, &a.v_scales, &a.v_opacities, &a.v_viewmat, &a.v_K},
       {}},
  };
}

enum class Outcome { kDone, kSaidWhatWasWanted, kSaidNothing };

// Calls the driver while the allocation with number `first` fails, and later ones with it if all
// of `n` are not used up.
Outcome call_with_failures(const Driver& driver, int64_t n_threads, int64_t first, int64_t n) {
  test::Threads pool(n_threads);
  Outcome outcome = Outcome::kDone;
  n_failures = 0;
  n_good = first;
  n_bad = n;
  try {
    driver.call(pool);
    n_bad = 0;
  } catch (const std::bad_alloc& error) {
    n_bad = 0;
    const std::string what = error.what();
    const bool complete = what.find(" bytes were wanted for ") != std::string::npos;
    outcome = complete ? Outcome::kSaidWhatWasWanted : Outcome::kSaidNothing;
  }
  return outcome;
}

void check(const Driver& driver, int64_t n_threads, int64_t n_failing) {
  const auto clean = [&] {
    driver.clear();
    test::Threads pool(n_threads);
    driver.call(pool);
  };
  clean();
  const auto expected = driver.copy();
  bool same_bits = true, no_leak = true, said = true;
  int64_t first = 0, n_thrown = 0;
  for (;; ++first) {
    driver.clear();
    const int64_t before = n_blocks;
    const Outcome outcome = call_with_failures(driver, n_threads, first, n_failing);
    no_leak &= n_blocks == before;
    said &= outcome != Outcome::kSaidNothing;
    n_thrown += outcome == Outcome::kSaidWhatWasWanted;
    if (outcome != Outcome::kDone) clean();
    same_bits &= same(driver.copy(), expected);
    if (n_failures == 0) break;
  }
  const std::string name = driver.name + ", threads " + std::to_string(n_threads) +
                           (n_failing > 1 ? ", no memory from then on" : ", one failure");
  test::Expect(name + ": errors " + std::to_string(n_thrown) + " of " + std::to_string(first),
               n_thrown > 0);
  test::Expect(name + ": says what was wanted for what", said);
  test::Expect(name + ": leaves no memory behind", no_leak);
  test::Expect(name + ": the same bits afterwards", same_bits);
}

}  // namespace

int main() {
  Arrays arrays;
  const std::vector<Driver> all = drivers(arrays);
  for (const Driver& driver : all) {
    for (const int64_t n_threads : {1, 3}) {
      for (const int64_t n_failing : {int64_t{1}, int64_t{1} << 40}) {
        check(driver, n_threads, n_failing);
      }
    }
  }
  return test::Finish();
}
