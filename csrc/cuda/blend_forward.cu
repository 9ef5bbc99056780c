// Blends splats in depth order into image, depth and weight.

#include "cuda/blend.h"
#include "cuda/blend_walk.h"
#include "cuda/launch.h"
#include "cuda/tile_lists.h"

namespace jgd::cuda {
namespace {

// Blocks that a multiprocessor holds at a time; more of them would make the compiler spill
// registers.
template <typename T, bool kMedian>
constexpr int kForwardBlocks = sizeof(T) == 4 ? (kMedian ? 5 : 6) : 3;

template <typename T>
struct ForwardArrays {
  BlendInputs<T> in;
  T* image;  // of all images, one after the other; see BlendForward
  T* depth;
  T* weight;
  T* transmittance;  // both null if no backward pass follows
  int32_t* last;
  int32_t* median;  // null if it is not wanted
  int first_channel;  // of this launch
  int n_used;         // channels of this launch, at most kChannels
};

template <typename T, int kChannels>
struct Pixel {
  T transmittance = T(1);
  T weight = T(0);
  T weighted_depth = T(0);
  T channels[kChannels] = {};
  int32_t last = 0;
  int32_t median = -1;
  // The exponent that a splat needs to be drawn: infinite outside the image and once the pixel has
  // ended.
  T cutoff = kInfinity<T>;

  __device__ bool live() const { return cutoff < kInfinity<T>; }
};

// Blends the splat into the pixel: alpha T of its colour, unless that would end the pixel. There is
// no branch: some lane of the warp nearly always takes the splat, and alpha = 0 changes nothing.
template <bool kMedian, typename T, int kChannels>
__device__ void blend_splat(const TileSplat<T>& splat, const T* color, int32_t rank, T dx, T dy,
                            Pixel<T, kChannels>& pixel) {
  const T exponent = log2_alpha(splat.exponent, dx, dy);
  const bool drawn = exponent >= pixel.cutoff && exponent <= splat.exponent.log2_opacity;
  const T alpha = drawn ? std::fmin(fast_exp2(exponent), T(kAlphaMax)) : T(0);
  const BlendStep<T> step = blend_step(alpha, pixel.transmittance);
  if (kMedian && is_median(pixel.transmittance, step.transmittance)) pixel.median = splat.id;
  pixel.transmittance = step.transmittance;
  pixel.cutoff = step.ends ? kInfinity<T> : pixel.cutoff;
  pixel.last = drawn && !step.ends ? rank + 1 : pixel.last;
  pixel.weight += step.w;
  pixel.weighted_depth = std::fma(step.w, splat.depth, pixel.weighted_depth);
  JGD_UNROLL
  for (int d = 0; d < kChannels; ++d) {
    pixel.channels[d] = std::fma(step.w, color[d], pixel.channels[d]);
  }
}

// One block for each tile of all images, one warp for each quarter of it (see blend_walk.h). Shared
// memory: one WarpBatch for each warp. One lane sums a pixel, in depth order.
template <typename T, int kChannels, bool kMedian>
__global__ void __launch_bounds__(kBlendThreads, kForwardBlocks<T, kMedian>)
    blend_forward_kernel(TileLists<T> lists, ForwardArrays<T> args) {
  const SplatInputs<T>& in = args.in.splats;
  const SubTile part(lists.n_tiles(), lists.n_tiles_x, in.width, in.height);
  if (part.empty()) return;
  const int64_t n_channels = args.in.n_channels;
  const int64_t b = part.image / in.n_cameras;
  const int64_t camera = part.image % in.n_cameras;
  const T* colors = args.in.colors_of(b, camera) + args.first_channel;
  const T* background = args.in.background_of(b, camera) + args.first_channel;

  using Batch = WarpBatch<T, kChannels>;
  Batch& batch = shared_memory<Batch>()[warp_in_block()];
  Pixel<T, kChannels> pixels[kPixelsPerLane];
  const T x = T(part.column()) + T(0.5);
  const T y = T(part.row(0)) + T(0.5);
  JGD_UNROLL
  for (int i = 0; i < kPixelsPerLane; ++i) {
    if (part.has_pixel(i)) pixels[i].cutoff = T(kLog2AlphaMin);
  }
  const auto any_live = [&] { return ballot(pixels[0].live() || pixels[1].live()) != 0; };

  const Walk<T> walk(lists, part, in);
  for (int64_t first = 0; first < walk.size() && any_live(); first += kWarpSize) {
    const int n = walk.fetch(first + lane(), colors, n_channels, args.n_used, batch);
    for (int k = 0; k < n; ++k) {
      const ColoredSplat<T, kChannels> item = batch.splats[k];
      const int32_t rank = batch.ranks[k];
      const T dx = x - item.splat.center.x;
      JGD_UNROLL
      for (int i = 0; i < kPixelsPerLane; ++i) {
        const T dy = y + T(i * kRowsApart) - item.splat.center.y;
        blend_splat<kMedian>(item.splat, item.color, rank, dx, dy, pixels[i]);
      }
    }
    sync_warp();  // the next batch overwrites this one
  }

  JGD_UNROLL
  for (int i = 0; i < kPixelsPerLane; ++i) {
    if (!part.has_pixel(i)) continue;
    const Pixel<T, kChannels>& pixel = pixels[i];
    const int64_t at = part.image * in.width * in.height + part.pixel(i);
    T* image = args.image + at * n_channels + args.first_channel;
    JGD_UNROLL
    for (int d = 0; d < kChannels; ++d) {
      if (d < args.n_used) {
        image[d] = std::fma(pixel.transmittance, background[d], pixel.channels[d]);
      }
    }
    if (args.first_channel > 0) continue;
    args.weight[at] = pixel.weight;
    args.depth[at] = pixel.weight > T(0) ? pixel.weighted_depth / pixel.weight : T(0);
    if (kMedian) args.median[at] = pixel.median;
    if (args.last == nullptr) continue;
    args.transmittance[at] = pixel.transmittance;
    args.last[at] = pixel.last;
  }
}

// Launches the kernel for a portion of the channels. The first launch of a call also writes all
// other outputs.
template <typename T, int kChannels>
void launch_channels(Context& context, const TileLists<T>& lists, const ForwardArrays<T>& args,
                     int64_t n_blocks) {
  const bool with_median = args.median && args.first_channel == 0;
  launch(context, "blend_forward",
         with_median ? blend_forward_kernel<T, kChannels, true>
                     : blend_forward_kernel<T, kChannels, false>,
         n_blocks, kBlendThreads,
         kBlendThreads / kWarpSize * static_cast<int64_t>(sizeof(WarpBatch<T, kChannels>)), lists,
         args);
}

}  // namespace

template <typename T>
void blend_forward(Context& context, const BlendForward<T>& args) {
  const CallSizes sizes = call_sizes(args.in);
  Workspace workspace = args.workspace;
  const TileListArrays<T> arrays(workspace, sizes);
  if (!context.require(workspace.fits(), "workspace is too small")) return;
  const TileLists<T> lists =
      build_tile_lists(context, args.in, arrays, args.n_isects.data, args.n_isects_listed.data);
  const int64_t blocks = sizes.n_images() * sizes.n_tiles();
  ForwardArrays<T> forward;
  forward.in = args.in;
  forward.image = args.image.data;
  forward.depth = args.depth.data;
  forward.weight = args.weight.data;
  forward.transmittance = args.transmittance.data;
  forward.last = args.last.data;
  forward.median = args.median.data;
  forward.first_channel = 0;
  // More channels than registers hold are blended in portions; each portion repeats the walk.
  constexpr int kPortion = 4;
  const int n_channels = static_cast<int>(args.in.n_channels);
  do {
    forward.n_used = n_channels - forward.first_channel;
    if (forward.n_used > kPortion) forward.n_used = kPortion;
    if (n_channels <= 1) {
      launch_channels<T, 1>(context, lists, forward, blocks);
    } else if (n_channels <= 3) {
      launch_channels<T, 3>(context, lists, forward, blocks);
    } else {
      launch_channels<T, kPortion>(context, lists, forward, blocks);
    }
    forward.first_channel += kPortion;
  } while (forward.first_channel < n_channels);
}

#define JGD_INSTANTIATE(T) template void blend_forward<T>(Context&, const BlendForward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cuda
