// Pulls the cotangents of image, depth and weight back to splats, colours and background.
//
// Each pixel is walked from its last contributor to the front (blend_step_vjp).

#include "cuda/blend.h"
#include "cuda/blend_walk.h"
#include "cuda/gradient_sums.h"
#include "cuda/launch.h"
#include "cuda/reduce.h"
#include "cuda/tile_lists.h"
#include "stages/image_splats.h"

namespace jgd::cuda {
namespace {

constexpr int kThreads = 128;  // of the kernels other than blend_backward_kernel

// Blocks that a multiprocessor holds at a time; more of them would make the compiler spill
// registers.
template <typename T, int kChannels>
constexpr int kBackwardBlocks = sizeof(T) == 4 ? (kChannels < 0 ? 4 : 5) : 2;

template <typename T>
struct BackwardArrays {
  BlendInputs<T> in;
  Batched<const T> depth, weight, transmittance, v_image, v_depth, v_weight;
  Batched<const int32_t> last;
  GradientSums<T> sums;
  bool absolute;
};

// The arrays that the pixels of one image read; null where an operand is absent.
template <typename T>
struct ImageArrays {
  const T *depth, *weight, *transmittance, *v_image, *v_depth, *v_weight;
  const int32_t* last;
  const T* background;

  __device__ ImageArrays(const BackwardArrays<T>& args, int64_t image) {
    const SplatInputs<T>& in = args.in.splats;
    const int64_t b = image / in.n_cameras;
    const int64_t camera = image % in.n_cameras;
    const int64_t n_pixels = int64_t{in.width} * in.height;
    const int64_t n_channels = args.in.n_channels;
    const auto of_image = [&](const auto& operand, int64_t size) {
      auto* data = operand.at(in.batch, b);
      return data == nullptr ? nullptr : data + camera * size;
    };
    depth = of_image(args.depth, n_pixels);
    weight = of_image(args.weight, n_pixels);
    transmittance = of_image(args.transmittance, n_pixels);
    v_image = of_image(args.v_image, n_pixels * n_channels);
    v_depth = of_image(args.v_depth, n_pixels);
    v_weight = of_image(args.v_weight, n_pixels);
    last = of_image(args.last, n_pixels);
    background = args.in.background_of(b, camera);
  }
};

template <typename T, int kHeld>
struct PixelGradient {
  T transmittance = T(0);     // in front of the splats that have been visited
  T behind = T(0);            // see blend_step_vjp
  T v_weight = T(0);          // dL/d(sum w), from weight and depth
  T v_weighted_depth = T(0);  // dL/d(sum w z)
  T v_channels[kHeld > 0 ? kHeld : 1] = {};
  const T* v_image = nullptr;  // [D], where it is not held in v_channels
  int32_t last = 0;            // 1 + rank of the last contributor; 0 outside the image
};

// The channels of a pixel. kChannels < 0: any number of them, not held in registers.
template <typename T, int kChannels>
struct Channels {
  static constexpr int kHeld = kChannels > 0 ? kChannels : 0;
  int64_t n;  // all channels of the image

  // Adds the sum over channels of color v_image to `sum`.
  __device__ T dot(const T* held_color, const T* color, const PixelGradient<T, kHeld>& pixel,
                   T sum) const {
    JGD_UNROLL
    for (int d = 0; d < kHeld; ++d) sum = std::fma(held_color[d], pixel.v_channels[d], sum);
    if constexpr (kChannels < 0) {
      if (pixel.v_image == nullptr) return sum;  // outside the image
      for (int64_t d = 0; d < n; ++d) sum = std::fma(color[d], pixel.v_image[d], sum);
    }
    return sum;
  }
};

template <typename T, int kChannels>
__device__ void load_pixel(const ImageArrays<T>& arrays, Channels<T, kChannels> channels,
                           int64_t at, PixelGradient<T, Channels<T, kChannels>::kHeld>& pixel) {
  pixel.last = arrays.last[at];
  if (pixel.last == 0) return;  // hit by nothing: its cotangent, whatever it is, reaches no splat
  pixel.transmittance = arrays.transmittance[at];
  if (arrays.v_weight) pixel.v_weight = arrays.v_weight[at];
  if (arrays.v_depth) {
    const T weight = arrays.weight[at];
    pixel.v_weighted_depth = weight > T(0) ? arrays.v_depth[at] / weight : T(0);
    pixel.v_weight -= pixel.v_weighted_depth * arrays.depth[at];
  }
  if constexpr (kChannels != 0) {
    const T* v = arrays.v_image + at * channels.n;
    T v_end = T(0);
    for (int64_t d = 0; d < channels.n; ++d) v_end = std::fma(v[d], arrays.background[d], v_end);
    pixel.behind = pixel.transmittance * v_end;
    pixel.v_image = v;
    JGD_UNROLL
    for (int d = 0; d < Channels<T, kChannels>::kHeld; ++d) pixel.v_channels[d] = v[d];
  }
}

constexpr int kSums = 16;  // moments and held channels, rounded up for reduce_values

// Adds one pixel's contribution to the sums of the splat; `exponent` is log2(alpha) there. Returns
// w. There is no branch: alpha = 0, where the splat is not `drawn`, changes nothing. Products with
// w are left out all the same, because 0 times a cotangent that is not finite is NaN.
template <typename T, int kChannels>
__device__ T add_pixel(const ColoredSplat<T, Channels<T, kChannels>::kHeld>& item, const T* color,
                       T exponent, bool drawn, T dx, T dy, bool absolute,
                       Channels<T, kChannels> channels,
                       PixelGradient<T, Channels<T, kChannels>::kHeld>& pixel, T (&sums)[kSums]) {
  const Exponent<T>& e = item.splat.exponent;
  const T uncapped = fast_exp2(exponent);
  const T alpha = drawn ? std::fmin(uncapped, T(kAlphaMax)) : T(0);
  const T u = channels.dot(item.color, color, pixel,
                           std::fma(item.splat.depth, pixel.v_weighted_depth, pixel.v_weight));
  const BlendStepGrad<T> step =
      blend_step_vjp(alpha, fast_reciprocal(T(1) - alpha), u, pixel.transmittance, pixel.behind);
  const T w = step.w;
  pixel.behind = drawn ? step.behind : pixel.behind;  // u may be infinite
  pixel.transmittance = drawn ? step.transmittance : pixel.transmittance;
  const auto add_product = [&](T& sum, T v) { sum = drawn ? std::fma(w, v, sum) : sum; };
  add_product(sums[kMomentDepth], pixel.v_weighted_depth);
  JGD_UNROLL
  for (int d = 0; d < Channels<T, kChannels>::kHeld; ++d) {
    add_product(sums[kMoments + d], pixel.v_channels[d]);
  }
  const bool free = drawn && uncapped <= T(kAlphaMax);  // the cap stops the gradient
  const T s = free ? -alpha * step.v_alpha : T(0);
  const T sx = s * dx;
  const T sy = s * dy;
  sums[kMoment0] += s;
  sums[kMomentX] += sx;
  sums[kMomentY] += sy;
  sums[kMomentXX] = std::fma(sx, dx, sums[kMomentXX]);
  sums[kMomentXY] = std::fma(sx, dy, sums[kMomentXY]);
  sums[kMomentYY] = std::fma(sy, dy, sums[kMomentYY]);
  if (absolute) {
    sums[kMomentAbsX] += std::fabs(std::fma(T(2) * e.xx, sx, e.xy * sy));
    sums[kMomentAbsY] += std::fabs(std::fma(T(2) * e.yy, sy, e.xy * sx));
  }
  return w;
}

// One block for each tile of all images, one warp for each quarter of it (see blend_walk.h). Shared
// memory: one WarpBatch for each warp. The pixels of a warp are summed in a fixed tree, and the
// sums of the warps as gradient_sums.h says.
template <typename T, int kChannels, Pass kPass>
__global__ void __launch_bounds__(kBlendThreads, kBackwardBlocks<T, kChannels>)
    blend_backward_kernel(TileLists<T> lists, BackwardArrays<T> args) {
  constexpr int kHeld = Channels<T, kChannels>::kHeld;
  static_assert(kMoments + kHeld <= kSums);
  const SplatInputs<T>& in = args.in.splats;
  const SubTile part(lists.n_tiles(), lists.n_tiles_x, in.width, in.height);
  if (part.empty()) return;
  const Channels<T, kChannels> channels{args.in.n_channels};
  const T* colors = args.in.colors_of(part.image / in.n_cameras, part.image % in.n_cameras);

  using Batch = WarpBatch<T, kHeld>;
  Batch& batch = shared_memory<Batch>()[warp_in_block()];
  PixelGradient<T, kHeld> pixels[kPixelsPerLane];
  const T x = T(part.column()) + T(0.5);
  const T y = T(part.row(0)) + T(0.5);
  const ImageArrays<T> arrays(args, part.image);
  int32_t last = 0;  // of the warp
  JGD_UNROLL
  for (int i = 0; i < kPixelsPerLane; ++i) {
    if (part.has_pixel(i)) load_pixel<T, kChannels>(arrays, channels, part.pixel(i), pixels[i]);
    last = max(last, pixels[i].last);
  }
  for (int mask = kWarpSize / 2; mask >= 1; mask /= 2) last = max(last, shuffle_xor(last, mask));

  const Walk<T> walk(lists, part, in);
  for (int64_t end = walk.size_below(last); end > 0; end -= kWarpSize) {
    const int n = walk.fetch(end - 1 - lane(), colors, channels.n, kHeld, batch);
    for (int k = 0; k < n; ++k) {
      const ColoredSplat<T, kHeld> item = batch.splats[k];
      const int32_t rank = batch.ranks[k];
      const TileSplat<T>& splat = item.splat;
      const T dx = x - splat.center.x;
      T dy[kPixelsPerLane], exponent[kPixelsPerLane];
      bool drawn[kPixelsPerLane];
      JGD_UNROLL
      for (int i = 0; i < kPixelsPerLane; ++i) {
        dy[i] = y + T(i * kRowsApart) - splat.center.y;
        exponent[i] = log2_alpha(splat.exponent, dx, dy[i]);
        drawn[i] = rank < pixels[i].last && seen(splat.exponent, exponent[i]);
      }
      if (ballot(drawn[0] || drawn[1]) == 0) continue;
      T sums[kSums] = {};
      T w[kPixelsPerLane];
      JGD_UNROLL
      for (int i = 0; i < kPixelsPerLane; ++i) {
        w[i] = add_pixel<T, kChannels>(item, colors + splat.id * channels.n, exponent[i], drawn[i],
                                       dx, dy[i], args.absolute, channels, pixels[i], sums);
      }
      const int64_t first = (part.image * in.n + splat.id) * args.sums.stride;
      const T sum = reduce_values(sums);
      const int index = lane() / (kWarpSize / kSums);
      const bool unused = index >= kMoments + kHeld ||
                          (!args.absolute && (index == kMomentAbsX || index == kMomentAbsY));
      if (lane() % (kWarpSize / kSums) == 0 && !unused) {
        args.sums.template add<kPass>(first + index, sum);
      }
      if constexpr (kChannels < 0) {
        for (int64_t d = 0; d < channels.n; d += kSums) {
          JGD_UNROLL
          for (int j = 0; j < kSums; ++j) {
            sums[j] = T(0);
            JGD_UNROLL
            for (int i = 0; i < kPixelsPerLane; ++i) {
              if (drawn[i] && d + j < channels.n) {
                sums[j] = std::fma(w[i], pixels[i].v_image[d + j], sums[j]);
              }
            }
          }
          const T v_color = reduce_values(sums);
          if (lane() % (kWarpSize / kSums) == 0 && d + index < channels.n) {
            args.sums.template add<kPass>(first + kMoments + d + index, v_color);
          }
        }
      }
    }
    sync_warp();  // the next batch overwrites this one
  }
}

// One thread for each Gaussian of each batch element; cameras are added in their order.
template <typename T>
__global__ void splat_gradients_kernel(BlendInputs<T> in, GradientSums<T> sums, int64_t n_batch,
                                       T* v_means2d, T* v_means2d_abs, T* v_depths, T* v_conics,
                                       T* v_opacities, T* v_colors) {
  const int64_t i = thread_index();
  const int64_t n = in.splats.n;
  const int64_t n_cameras = in.splats.n_cameras;
  if (i >= n_batch * n) return;
  const int64_t b = i / n;
  const int64_t id = i % n;
  for (int64_t camera = 0; camera < n_cameras; ++camera) {
    const ImageSplats<T> splats(in.splats, b, camera);
    const int64_t at = (b * n_cameras + camera) * n + id;
    SplatGradient<T> v{};
    if (splats.drawable(id)) {  // the others may hold anything, and 0 times NaN is not 0
      T moments[kMoments];
      JGD_UNROLL
      for (int j = 0; j < kMoments; ++j) moments[j] = sums.sum(at * sums.stride + j);
      v = splat_gradient(load_sym2(splats.conics, id), splats.opacities[id], moments);
    }
    store_vec2(v_means2d, at, v.mean2d);
    if (v_means2d_abs) store_vec2(v_means2d_abs, at, v.mean2d_abs);
    v_depths[at] = v.depth;
    store_sym2(v_conics, at, v.conic);
    v_opacities[at] = v.opacity;
  }
  if (v_colors == nullptr) return;
  const int64_t n_sets = in.shared_colors ? 1 : n_cameras;
  for (int64_t set = 0; set < n_sets; ++set) {
    for (int64_t d = 0; d < in.n_channels; ++d) {
      T sum = T(0);
      for (int64_t camera = set; camera < (in.shared_colors ? n_cameras : set + 1); ++camera) {
        const int64_t at = (b * n_cameras + camera) * n + id;
        sum += sums.sum(at * sums.stride + kMoments + d);
      }
      v_colors[((b * n_sets + set) * n + id) * in.n_channels + d] = sum;
    }
  }
}

// Sums T v_image. kBackgroundBlocks blocks for each image, each with every kBackgroundBlocks-th row
// of kThreads pixels. Shared memory: one number for each warp. The order of a sum is fixed.
template <typename T>
__global__ void background_parts_kernel(BackwardArrays<T> args, double* parts) {
  const SplatInputs<T>& in = args.in.splats;
  const int64_t image = block_index() / kBackgroundBlocks;
  const int64_t part = block_index() % kBackgroundBlocks;
  const int64_t n_pixels = int64_t{in.width} * in.height;
  const int64_t n_channels = args.in.n_channels;
  const ImageArrays<T> arrays(args, image);
  double* warp_sums = shared_memory<double>();
  for (int64_t d = 0; d < n_channels; ++d) {
    double sum = 0;
    for (int64_t pixel = part * kThreads + thread_in_block(); pixel < n_pixels;
         pixel += kBackgroundBlocks * kThreads) {
      sum +=
          static_cast<double>(arrays.transmittance[pixel]) * arrays.v_image[pixel * n_channels + d];
    }
    for (int mask = kWarpSize / 2; mask >= 1; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane() == 0) warp_sums[warp_in_block()] = sum;
    sync_block();
    if (thread_in_block() == 0) {
      for (int warp = 1; warp < kThreads / kWarpSize; ++warp) sum += warp_sums[warp];
      parts[block_index() * n_channels + d] = sum;
    }
    sync_block();
  }
}

// One thread for each channel of each background. Blocks are added in their order, then cameras in
// theirs, as if each camera had been a call of its own.
template <typename T>
__global__ void background_kernel(const double* parts, int64_t n_backgrounds, int64_t n_images,
                                  int64_t n_channels, T* v_background) {
  const int64_t i = thread_index();
  if (i >= n_backgrounds * n_channels) return;
  const int64_t d = i % n_channels;
  const int64_t n_cameras = n_images / n_backgrounds;  // that share a background
  const int64_t first = i / n_channels * n_cameras;
  T total = T(0);
  for (int64_t image = first; image < first + n_cameras; ++image) {
    double sum = 0;
    for (int64_t part = 0; part < kBackgroundBlocks; ++part) {
      sum += parts[(image * kBackgroundBlocks + part) * n_channels + d];
    }
    total += static_cast<T>(sum);
  }
  v_background[i] = total;
}

template <typename T, int kChannels, Pass kPass>
void launch_walk(Context& context, const TileLists<T>& lists, const BackwardArrays<T>& args,
                 int64_t n_blocks) {
  using Batch = WarpBatch<T, Channels<T, kChannels>::kHeld>;
  launch(context, "blend_backward", blend_backward_kernel<T, kChannels, kPass>, n_blocks,
         kBlendThreads, kBlendThreads / kWarpSize * static_cast<int64_t>(sizeof(Batch)), lists,
         args);
}

template <typename T, Pass kPass>
void walk_back(Context& context, const TileLists<T>& lists, const BackwardArrays<T>& args,
               int64_t n_blocks) {
  if (args.v_image.data == nullptr) {
    return launch_walk<T, 0, kPass>(context, lists, args, n_blocks);
  }
  if constexpr (sizeof(T) == 4) {  // float64 is for checks: not worth the size of the module
    switch (args.in.n_channels) {
      case 1:
        return launch_walk<T, 1, kPass>(context, lists, args, n_blocks);
      case 3:
        return launch_walk<T, 3, kPass>(context, lists, args, n_blocks);
      case 4:
        return launch_walk<T, 4, kPass>(context, lists, args, n_blocks);
    }
  }
  launch_walk<T, -1, kPass>(context, lists, args, n_blocks);
}

template <typename T>
void background_gradient(Context& context, const BlendBackward<T>& args,
                         const BackwardArrays<T>& backward, const CallSizes& sizes, double* parts) {
  const int64_t n_images = sizes.n_images();
  const int64_t n_backgrounds = args.in.shared_background ? sizes.n_batch : n_images;
  const int64_t n = n_backgrounds * sizes.n_channels;
  if (args.v_image.data == nullptr) return fill_bytes(context, args.v_background.data, 0, n);
  launch(context, "background_parts", background_parts_kernel<T>, n_images * kBackgroundBlocks,
         kThreads, kThreads / kWarpSize * static_cast<int64_t>(sizeof(double)), backward, parts);
  launch(context, "background", background_kernel<T>, n_blocks(n, kThreads), kThreads, 0, parts,
         n_backgrounds, n_images, sizes.n_channels, args.v_background.data);
}

}  // namespace

template <typename T>
void blend_backward(Context& context, const BlendBackward<T>& args) {
  CallSizes sizes = call_sizes(args.in);
  sizes.deterministic = args.deterministic;
  Workspace workspace = args.workspace;
  const TileListArrays<T> list_arrays(workspace, sizes);
  const GradientArrays<T> arrays(workspace, sizes);
  if (!context.require(workspace.fits(), "workspace is too small")) return;
  const TileLists<T> lists = build_tile_lists(context, args.in, list_arrays, nullptr, nullptr);
  const int64_t blocks = sizes.n_images() * sizes.n_tiles();
  const int64_t stride = kMoments + sizes.n_channels;
  const int64_t n_sums = sizes.n_images() * sizes.n * stride;
  int term_bits = 2;  // the quarters of a tile
  while ((int64_t{1} << (term_bits - 2)) <= sizes.n_tiles()) ++term_bits;
  BackwardArrays<T> backward;
  backward.in = args.in;
  backward.depth = args.depth;
  backward.weight = args.weight;
  backward.transmittance = args.transmittance;
  backward.v_image = args.v_image;
  backward.v_depth = args.v_depth;
  backward.v_weight = args.v_weight;
  backward.last = args.last;
  backward.sums.moments = arrays.moments;
  backward.sums.magnitude = arrays.magnitude;
  backward.sums.fixed = arrays.fixed;
  backward.sums.stride = stride;
  backward.sums.term_bits = term_bits;
  backward.absolute = args.v_means2d_abs.data != nullptr;
  if (args.deterministic) {
    fill_bytes(context, arrays.magnitude, 0, n_sums);
    fill_bytes(context, arrays.fixed, 0, n_sums);
    walk_back<T, Pass::kMagnitude>(context, lists, backward, blocks);
    walk_back<T, Pass::kFixed>(context, lists, backward, blocks);
  } else {
    fill_bytes(context, arrays.moments, 0, n_sums);
    walk_back<T, Pass::kAtomic>(context, lists, backward, blocks);
  }
  launch(context, "splat_gradients", splat_gradients_kernel<T>,
         n_blocks(sizes.n_batch * sizes.n, kThreads), kThreads, 0, args.in, backward.sums,
         sizes.n_batch, args.v_means2d.data, args.v_means2d_abs.data, args.v_depths.data,
         args.v_conics.data, args.v_opacities.data, args.v_colors.data);
  if (args.v_background.data != nullptr) {
    background_gradient(context, args, backward, sizes, arrays.background);
  }
}

#define JGD_INSTANTIATE(T) template void blend_backward<T>(Context&, const BlendBackward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cuda
