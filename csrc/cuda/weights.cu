// Finds which splat takes how much of which pixel: blend_forward.cu without an image.
//
// The sums over pixels are integers in a fixed unit, since a weight is below 1: no bit depends on
// the order in which the warps add, nor on where the tile lists end.

#include <cstring>

#include "cuda/blend_walk.h"
#include "cuda/launch.h"
#include "cuda/tile_lists.h"
#include "cuda/weights.h"

namespace jgd::cuda {
namespace {

constexpr int kThreads = 128;  // of the kernel other than weights_kernel

// What a warp adds is below 2^kTermBits: the weights of its pixels.
constexpr int kTermBits = 6;
static_assert(kPixelsPerLane * kWarpSize <= 1 << kTermBits);

template <typename T>
struct WeightsKernelArrays {
  using Bits = typename WeightArrays<T>::Bits;
  SplatInputs<T> splats;
  int64_t k;
  int32_t* ids;  // of all images, one after the other; both null if they are not wanted
  T* weights;
  Bits* largest;  // [image, id]; all null if they are not wanted
  int64_t* total;  // in units of 2^-shift
  int32_t* n_pixels;
  int shift;
};

// Positive floating-point numbers are ordered like their bits.
template <typename T>
__device__ typename WeightArrays<T>::Bits bits_of(T value) {
  typename WeightArrays<T>::Bits bits;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
struct WeightsPixel {
  T transmittance = T(1);
  // The exponent that a splat needs to be drawn; see Pixel of blend_forward.cu.
  T cutoff = kInfinity<T>;
  T smallest = T(0);  // of the k weights
  int32_t* ids = nullptr;
  T* weights = nullptr;

  __device__ bool live() const { return cutoff < kInfinity<T>; }

  // Takes the light of a splat and returns its weight, 0 where it is not drawn.
  __device__ T take(const TileSplat<T>& splat, T dx, T dy) {
    const T exponent = log2_alpha(splat.exponent, dx, dy);
    const bool drawn = exponent >= cutoff && exponent <= splat.exponent.log2_opacity;
    const T alpha = drawn ? std::fmin(fast_exp2(exponent), T(kAlphaMax)) : T(0);
    const BlendStep<T> step = blend_step(alpha, transmittance);
    transmittance = step.transmittance;
    cutoff = step.ends ? kInfinity<T> : cutoff;
    return step.w;
  }

  // Puts a splat where it belongs among the k.
  __device__ void insert(int64_t k, int32_t id, T w) {
    if (!(smallest < w)) return;
    int64_t i = k - 1;
    for (; i > 0 && weights[i - 1] < w; --i) {
      weights[i] = weights[i - 1];
      ids[i] = ids[i - 1];
    }
    weights[i] = w;
    ids[i] = id;
    smallest = weights[k - 1];
  }
};

// One block for each tile of all images, one warp for each quarter of it (see blend_walk.h). Shared
// memory: one WarpBatch for each warp. A lane alone writes the splats of its pixels.
template <typename T>
__global__ void __launch_bounds__(kBlendThreads)
    weights_kernel(TileLists<T> lists, WeightsKernelArrays<T> args) {
  const SplatInputs<T>& in = args.splats;
  const SubTile part(lists.n_tiles(), lists.n_tiles_x, in.width, in.height);
  if (part.empty()) return;
  using Batch = WarpBatch<T, 0>;
  Batch& batch = shared_memory<Batch>()[warp_in_block()];
  WeightsPixel<T> pixels[kPixelsPerLane];
  const T x = T(part.column()) + T(0.5);
  const T y = T(part.row(0)) + T(0.5);
  JGD_UNROLL
  for (int i = 0; i < kPixelsPerLane; ++i) {
    if (!part.has_pixel(i)) continue;
    pixels[i].cutoff = T(kLog2AlphaMin);
    if (args.ids == nullptr) continue;
    const int64_t at = part.image * in.width * in.height + part.pixel(i);
    pixels[i].ids = args.ids + at * args.k;
    pixels[i].weights = args.weights + at * args.k;
  }
  const auto any_live = [&] { return ballot(pixels[0].live() || pixels[1].live()) != 0; };

  const Walk<T> walk(lists, part, in);
  for (int64_t first = 0; first < walk.size() && any_live(); first += kWarpSize) {
    const T* no_colors = nullptr;
    const int n = walk.fetch(first + lane(), no_colors, 0, 0, batch);
    for (int k = 0; k < n; ++k) {
      const TileSplat<T> splat = batch.splats[k].splat;
      T w[kPixelsPerLane];
      JGD_UNROLL
      for (int i = 0; i < kPixelsPerLane; ++i) {
        const T dy = y + T(i * kRowsApart) - splat.center.y;
        w[i] = pixels[i].take(splat, x - splat.center.x, dy);
        if (args.ids != nullptr && w[i] > T(0)) pixels[i].insert(args.k, splat.id, w[i]);
      }
      if (args.largest == nullptr) continue;
      const unsigned drawn0 = ballot(w[0] > T(0));
      const unsigned drawn1 = ballot(w[1] > T(0));
      if ((drawn0 | drawn1) == 0) continue;
      T total = w[0] + w[1];
      T largest = std::fmax(w[0], w[1]);
      for (int mask = kWarpSize / 2; mask >= 1; mask /= 2) {
        total += shuffle_xor(total, mask);
        largest = std::fmax(largest, shuffle_xor(largest, mask));
      }
      if (lane() == 0) {
        const int64_t at = part.image * in.n + splat.id;
        const double units = std::ldexp(static_cast<double>(total), args.shift);
        atomic_max(args.largest + at, bits_of(largest));
        atomic_add(args.total + at, static_cast<int64_t>(std::llrint(units)));
        atomic_add(args.n_pixels + at, count_bits(drawn0) + count_bits(drawn1));
      }
    }
    sync_warp();  // the next batch overwrites this one
  }
}

// One thread for each Gaussian of each image.
template <typename T>
__global__ void statistics_kernel(WeightsKernelArrays<T> args, int64_t n, T* largest, T* total) {
  const int64_t i = thread_index();
  if (i >= n) return;
  memcpy(&largest[i], &args.largest[i], sizeof(T));
  total[i] = static_cast<T>(std::ldexp(static_cast<double>(args.total[i]), -args.shift));
}

}  // namespace

template <typename T>
void weights_forward(Context& context, const WeightsForward<T>& args) {
  const CallSizes sizes = call_sizes(args.in);
  Workspace workspace = args.workspace;
  const TileListArrays<T> list_arrays(workspace, sizes);
  const WeightArrays<T> arrays(workspace, sizes);
  if (!context.require(workspace.fits(), "workspace is too small")) return;
  const TileLists<T> lists = build_tile_lists(context, args.in, list_arrays, nullptr, nullptr);
  const int64_t n = sizes.n_images() * sizes.n;
  const int64_t n_listed = sizes.n_images() * sizes.width * sizes.height * args.k;
  int n_term_bits = 2;  // the quarters of a tile
  while ((int64_t{1} << (n_term_bits - 2)) <= sizes.n_tiles()) ++n_term_bits;
  const bool counted = args.largest.data != nullptr;
  WeightsKernelArrays<T> kernel;
  kernel.splats = args.in.splats;
  kernel.k = args.k;
  kernel.ids = args.ids.data;
  kernel.weights = args.weights.data;
  kernel.largest = counted ? arrays.largest : nullptr;
  kernel.total = counted ? arrays.total : nullptr;
  kernel.n_pixels = args.n_pixels.data;
  kernel.shift = 62 - kTermBits - n_term_bits;  // the sum stays below 2^62
  if (kernel.ids != nullptr) {
    fill_bytes(context, kernel.ids, 0xff, n_listed);
    fill_bytes(context, kernel.weights, 0, n_listed);
  }
  if (counted) {
    fill_bytes(context, kernel.largest, 0, n);
    fill_bytes(context, kernel.total, 0, n);
    fill_bytes(context, kernel.n_pixels, 0, n);
  }
  launch(context, "weights", weights_kernel<T>, sizes.n_images() * sizes.n_tiles(), kBlendThreads,
         kBlendThreads / kWarpSize * static_cast<int64_t>(sizeof(WarpBatch<T, 0>)), lists, kernel);
  if (!counted) return;
  launch(context, "statistics", statistics_kernel<T>, n_blocks(n, kThreads), kThreads, 0, kernel, n,
         args.largest.data, args.total.data);
}

#define JGD_INSTANTIATE(T) template void weights_forward<T>(Context&, const WeightsForward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cuda
