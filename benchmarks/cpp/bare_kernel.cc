// Computes for each (pixel, splat) pair only what the blend stages cannot do without: no lists, no
// culling, no early exit, one tile whose state stays in the first-level cache.
//
// Its pairs per second are the peak that the benchmark compares the stages with. native.py compiles
// this file with the flags of the package's kernels and calls it from several threads at the same
// time; nothing here has state.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/simd/vector.h"
#include "math/constants.h"

namespace jgd::cpu::JGD_ISA {
namespace {

using V = Simd<float>::V;
constexpr int kLanes = Simd<float>::kLanes;
constexpr int kColumns = kTileSize / kLanes;  // vectors beside each other in a row
constexpr int kPixels = kTileSize * kTileSize;

// A row of the argument `splats`: the fields of a splat that blending reads.
struct Splat {
  float x, y;  // centre, pixels of the tile
  float xx, xy, yy, log2_opacity;  // log2(alpha) = log2_opacity + xx dx^2 + xy dx dy + yy dy^2
  float depth;
  float color[3];
};

V load(const float* data) {
  V v;
  std::memcpy(&v, data, sizeof(v));
  return v;
}

void store(float* data, V v) { std::memcpy(data, &v, sizeof(v)); }

V zero_unless(Simd<float>::M mask, V v) {
#if JGD_AVX512
  return (V)_mm512_maskz_mov_ps(static_cast<__mmask16>(mask), (__m512)v);
#else
  return (V)(mask & (Simd<float>::I)v);
#endif
}

// Alpha, capped, and zero where the splat is not seen, so that later steps need no mask.
V alpha_of(V exponent, V uncapped) {
  const auto seen = less_equal(splat(float(kLog2AlphaMin)), exponent);
  const V cap = splat(float(kAlphaMax));
#if JGD_AVX512
  return (V)_mm512_maskz_min_ps(static_cast<__mmask16>(seen), (__m512)uncapped, (__m512)cap);
#elif JGD_AVX2
  return zero_unless(seen, (V)_mm256_min_ps((__m256)uncapped, (__m256)cap));
#elif defined(__SSE2__)
  return zero_unless(seen, (V)_mm_min_ps((__m128)uncapped, (__m128)cap));
#else
  return zero_unless(seen, select(less_equal(uncapped, cap), uncapped, cap));
#endif
}

// Pixel centres along a side of the tile.
struct Centers {
  V v[kColumns];
  Centers() {
    for (int i = 0; i < kTileSize; ++i) v[i / kLanes][i % kLanes] = float(i) + 0.5f;
  }
};

// The terms of the exponent along a row, constant + (linear + xx dx) dx, computed for all rows at
// once.
struct RowTerms {
  alignas(64) float constant[kTileSize];
  alignas(64) float linear[kTileSize];

  void set(const Splat& s, const Centers& y) {
    for (int i = 0; i < kColumns; ++i) {
      const V dy = y.v[i] - s.y;
      store(constant + i * kLanes, fma(dy * s.yy, dy, splat(s.log2_opacity)));
      store(linear + i * kLanes, dy * s.xy);
    }
  }
};

// The state of one vector of pixels stays in registers while a chunk of the splats passes, and the
// chunk is small enough for its row terms to stay in the cache. `state`: transmittance, weight,
// weighted depth and three colours, each [row][column].
void forward(const Splat* splats, int64_t n, float* state) {
  constexpr int64_t kChunk = 32;
  const Centers centers;
  RowTerms terms[kChunk];
  std::fill(state, state + kPixels, 1.0f);
  std::fill(state + kPixels, state + 6 * kPixels, 0.0f);
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t size = std::min(kChunk, n - begin);
    for (int64_t k = 0; k < size; ++k) terms[k].set(splats[begin + k], centers);
    for (int i = 0; i < kPixels; i += kLanes) {
      const int row = i / kTileSize;
      const V x = centers.v[i % kTileSize / kLanes];
      float* const pixels = state + i;
      V t = load(pixels);
      V weight = load(pixels + kPixels);
      V depth = load(pixels + 2 * kPixels);
      V red = load(pixels + 3 * kPixels);
      V green = load(pixels + 4 * kPixels);
      V blue = load(pixels + 5 * kPixels);
      for (int64_t k = 0; k < size; ++k) {
        const Splat& s = splats[begin + k];
        const V dx = x - s.x;
        const V slope = fma(splat(s.xx), dx, splat(terms[k].linear[row]));
        const V exponent = fma(slope, dx, splat(terms[k].constant[row]));
        const V w = alpha_of(exponent, exp2(exponent)) * t;
        t -= w;
        weight += w;
        depth = fma(w, splat(s.depth), depth);
        red = fma(w, splat(s.color[0]), red);
        green = fma(w, splat(s.color[1]), green);
        blue = fma(w, splat(s.color[2]), blue);
      }
      store(pixels, t);
      store(pixels + kPixels, weight);
      store(pixels + 2 * kPixels, depth);
      store(pixels + 3 * kPixels, red);
      store(pixels + 4 * kPixels, green);
      store(pixels + 5 * kPixels, blue);
    }
  }
}

constexpr int lane_before_fold(int lane, int half) {
  return lane & half ? lane - half + kLanes : lane;
}

template <int kHalf, size_t... kLane>
V fold(V a, V b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, lane_before_fold(kLane, kHalf)...) +
         __builtin_shufflevector(a, b, (lane_before_fold(kLane, kHalf) + kHalf)...);
}

// Sums the lanes of n <= kLanes vectors at once: folded in pairs, they share their additions.
template <int kHalf = kLanes / 2>
void lane_sums(V* v, int n, float* sums) {
  for (int i = 0; i < (n + 1) / 2; ++i) {
    const V& other = v[std::min(2 * i + 1, n - 1)];
    v[i] = fold<kHalf>(v[2 * i], other, std::make_index_sequence<kLanes>{});
  }
  if constexpr (kHalf > 1) {
    lane_sums<kHalf / 2>(v, (n + 1) / 2, sums);
  } else {
    store(sums, v[0]);
  }
}

// Where lane_sums leaves the sum of vector i: the first fold puts it into one half, the next into a
// half of that, so that the bits of i are the lane from the top.
int lane_of_sum(int i) {
  int lane = 0;
  for (int half = kLanes / 2; half > 0; half /= 2, i /= 2) lane += i % 2 * half;
  return lane;
}

// Walks through the splats from back to front; the sums of a splat over the pixels stay in
// registers. The pixels start from `transmittance`, with nothing behind; `v_image` is
// [colour][row][column]. For each splat `gradients` gets the sums of v_sigma {1, dx, dy, dx^2, dx
// dy, dy^2} and of the three w v_color.
void backward(const Splat* splats, int64_t n, const float* v_image, const float* transmittance,
              float* gradients) {
  constexpr int kGradients = 9;
  const Centers centers;
  alignas(64) float t[kPixels];
  alignas(64) float behind[kPixels] = {};
  std::copy(transmittance, transmittance + kPixels, t);
  for (int64_t k = n - 1; k >= 0; --k) {
    const Splat& s = splats[k];
    RowTerms terms;
    terms.set(s, centers);
    V m0{}, mx{}, my{}, mxx{}, mxy{}, myy{}, v_color[3]{};
    for (int column = 0; column < kColumns; ++column) {
      const V dx = centers.v[column] - s.x;
      const V slope = dx * s.xx;
      V row0{}, row1{}, row2{};  // sums over the rows of v_sigma {1, dy, dy^2}
      for (int row = 0; row < kTileSize; ++row) {
        const int pixel = row * kTileSize + column * kLanes;
        const float dy = float(row) + 0.5f - s.y;
        const V exponent = fma(slope + terms.linear[row], dx, splat(terms.constant[row]));
        const V uncapped = exp2(exponent);
        const V alpha = alpha_of(exponent, uncapped);
        const V inverse = 1.0f / (1.0f - alpha);
        const V before = load(t + pixel) * inverse;
        store(t + pixel, before);
        const V w = alpha * before;
        V u{};
        for (int d = 0; d < 3; ++d) {
          const V v = load(v_image + d * kPixels + pixel);
          u = fma(splat(s.color[d]), v, u);
          v_color[d] = fma(w, v, v_color[d]);
        }
        const V behind_this = load(behind + pixel);
        store(behind + pixel, fma(w, u, behind_this));
        const V minus_v_alpha = fma(behind_this, inverse, -before * u);
        // A capped alpha does not depend on the splat.
        const V free = zero_unless(less_equal(uncapped, splat(float(kAlphaMax))), alpha);
        const V v_sigma = free * minus_v_alpha;
        row0 += v_sigma;
        row1 = fma(v_sigma, splat(dy), row1);
        row2 = fma(v_sigma, splat(dy * dy), row2);
      }
      const V row0_dx = row0 * dx;
      m0 += row0;
      mx += row0_dx;
      my += row1;
      mxx = fma(row0_dx, dx, mxx);
      mxy = fma(row1, dx, mxy);
      myy += row2;
    }
    V vectors[kGradients] = {m0, mx, my, mxx, mxy, myy, v_color[0], v_color[1], v_color[2]};
    float sums[kLanes];
    for (int i = 0; i < kGradients; i += kLanes) {
      const int size = std::min(kLanes, kGradients - i);
      lane_sums(vectors + i, size, sums);
      for (int j = 0; j < size; ++j) gradients[k * kGradients + i + j] = sums[lane_of_sum(j)];
    }
  }
}

}  // namespace
}  // namespace jgd::cpu::JGD_ISA

// Each does the same `repeats` times, so that the cost of the call does not count.
extern "C" {

void bare_forward(const void* splats, int64_t n, int64_t repeats, float* state) {
  using namespace jgd::cpu::JGD_ISA;
  for (int64_t i = 0; i < repeats; ++i) forward(static_cast<const Splat*>(splats), n, state);
}

void bare_backward(const void* splats, int64_t n, int64_t repeats, const float* v_image,
                   const float* transmittance, float* gradients) {
  using namespace jgd::cpu::JGD_ISA;
  for (int64_t i = 0; i < repeats; ++i) {
    backward(static_cast<const Splat*>(splats), n, v_image, transmittance, gradients);
  }
}

}  // extern "C"
