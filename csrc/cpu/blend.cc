// Blends the tiles of each image on all threads, in both directions; kernels/ blends one tile.
//
// Tiles are independent, and a thread claims a few at a time. Each tile of a splat stores its part
// of the splat's gradient in a slot of its own, and the slots are added in their order: the same
// bits for any number of threads.

#include "cpu/blend.h"

#include <algorithm>
#include <limits>

#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "cpu/scratch.h"
#include "cpu/tile_lists.h"
#include "cpu/tile_loop.h"
#include "math/blend.h"
#include "stages/load.h"

namespace jgd::cpu {
namespace {

constexpr const char* kBackgroundPurpose = "the gradient of the background";

constexpr int64_t kSplatGrain = 2048;

// Where the gradients of one camera's splats go. The first camera writes the gradients of shared
// colours and the others add to them.
template <typename T>
SplatGradientSums<T> splat_gradient_sums(const BlendBackward<T>& args, int64_t b, int64_t camera) {
  const BlendInputs<T>& in = args.in;
  const BatchShape& batch = in.splats.batch;
  const int64_t first = camera * in.splats.n;
  const ImageSplats<T> splats(in.splats, b, camera);
  SplatGradientSums<T> sums{};
  sums.conics = splats.conics;
  sums.opacities = splats.opacities;
  sums.n_channels = in.n_channels;
  sums.add_colors = in.shared_colors && camera > 0;
  sums.v_means2d = camera_of(args.v_means2d, batch, b, 2 * first);
  sums.v_means2d_abs = camera_of(args.v_means2d_abs, batch, b, 2 * first);
  sums.v_depths = camera_of(args.v_depths, batch, b, first);
  sums.v_conics = camera_of(args.v_conics, batch, b, 3 * first);
  sums.v_opacities = camera_of(args.v_opacities, batch, b, first);
  sums.v_colors = camera_of(args.v_colors, batch, b, in.shared_colors ? 0 : first * in.n_channels);
  return sums;
}

template <typename T>
void forward_camera(ThreadPool& pool, const BlendForward<T>& args, int64_t b, int64_t camera,
                    const Scratch<T>& scratch) {
  const BlendInputs<T>& in = args.in;
  const CameraInputs<T> inputs(in, b, camera);
  const BatchShape& batch = in.splats.batch;
  const int64_t first_pixel = camera * in.splats.width * in.splats.height;
  const TileIndex<T> index(pool, in.splats, inputs.splats, inputs.order, inputs.colors,
                           in.n_channels);
  const int32_t n_isects = static_cast<int32_t>(
      std::min<int64_t>(index.n_instances(), std::numeric_limits<int32_t>::max()));
  *camera_of(args.n_isects, batch, b, camera) = n_isects;
  *camera_of(args.n_isects_listed, batch, b, camera) = n_isects;
  TileForward<T> outputs{};
  outputs.image = camera_of(args.image, batch, b, first_pixel * in.n_channels);
  outputs.depth = camera_of(args.depth, batch, b, first_pixel);
  outputs.weight = camera_of(args.weight, batch, b, first_pixel);
  outputs.transmittance = camera_of(args.transmittance, batch, b, first_pixel);
  outputs.last = camera_of(args.last, batch, b, first_pixel);
  outputs.median = camera_of(args.median, batch, b, first_pixel);
  const Vector<int64_t> groups = index.groups(sizeof(int32_t));
  for (size_t g = 0; g + 1 < groups.size(); ++g) {
    const TileLists<T> lists(pool, index, groups[g], groups[g + 1], /*with_slots=*/false);
    for_each_tile(pool, index, groups[g], groups[g + 1], [&](int64_t worker, int64_t tile) {
      TileForward<T> forward = outputs;
      forward.tile = make_tile(in, inputs, index, lists, tile, scratch.of(worker));
      kernels<T>().blend_forward->tile(forward);
    });
  }
}

template <typename T>
void backward_camera(ThreadPool& pool, const BlendBackward<T>& args, int64_t b, int64_t camera,
                     const Scratch<T>& scratch) {
  const BlendInputs<T>& in = args.in;
  const CameraInputs<T> inputs(in, b, camera);
  const BatchShape& batch = in.splats.batch;
  const int64_t first_pixel = camera * in.splats.width * in.splats.height;
  SplatGradientSums<T> gradients = splat_gradient_sums(args, b, camera);
  T* v_background =
      camera_of(args.v_background, batch, b, in.shared_background ? 0 : camera * in.n_channels);
  const TileIndex<T> index(pool, in.splats, inputs.splats, inputs.order, inputs.colors,
                           in.n_channels);
  TileBackward<T> pixels{};
  pixels.depth = camera_of(args.depth, batch, b, first_pixel);
  pixels.weight = camera_of(args.weight, batch, b, first_pixel);
  pixels.transmittance = camera_of(args.transmittance, batch, b, first_pixel);
  pixels.last = camera_of(args.last, batch, b, first_pixel);
  pixels.v_image = camera_of(args.v_image, batch, b, first_pixel * in.n_channels);
  pixels.v_depth = camera_of(args.v_depth, batch, b, first_pixel);
  pixels.v_weight = camera_of(args.v_weight, batch, b, first_pixel);
  pixels.absolute = args.v_means2d_abs.data != nullptr;
  const int64_t slot_size = kMoments + in.n_channels;
  Vector<double> background_sum(in.n_channels, kBackgroundPurpose);
  const Vector<int64_t> groups =
      index.groups(sizeof(int32_t) + sizeof(uint32_t) + slot_size * sizeof(T));
  for (size_t g = 0; g + 1 < groups.size(); ++g) {
    const int64_t n_tiles = groups[g + 1] - groups[g];
    const TileLists<T> lists(pool, index, groups[g], groups[g + 1], /*with_slots=*/true);
    const auto moments = make_array<T>(lists.n_instances() * slot_size + kSlotPadding,
                                       "the gradients of the splats in each tile");
    std::fill_n(moments.get() + lists.n_instances() * slot_size, kSlotPadding, T(0));
    Vector<T> v_tile_background(v_background ? n_tiles * in.n_channels : 0, kBackgroundPurpose);
    for_each_tile(pool, index, groups[g], groups[g + 1], [&](int64_t worker, int64_t tile) {
      TileBackward<T> backward = pixels;
      backward.tile = make_tile(in, inputs, index, lists, tile, scratch.of(worker));
      backward.slots = lists.slots(tile);
      backward.moments = moments.get();
      if (v_background) {
        backward.v_background = &v_tile_background[(tile - groups[g]) * in.n_channels];
      }
      kernels<T>().blend_backward->tile(backward);
    });
    gradients.moments = moments.get();
    gradients.slot_begin = lists.slot_begin();
    parallel_for(pool, in.splats.n, kSplatGrain, [&](int64_t, int64_t begin, int64_t end) {
      kernels<T>().splat_gradient->sum(gradients, begin, end);
    });
    gradients.add = gradients.add_colors = true;
    for (size_t i = 0; i < v_tile_background.size(); ++i) {
      background_sum[i % in.n_channels] += v_tile_background[i];
    }
  }
  const bool add_background = in.shared_background && camera > 0;
  for (int64_t d = 0; v_background && d < in.n_channels; ++d) {
    v_background[d] = (add_background ? v_background[d] : T(0)) + static_cast<T>(background_sum[d]);
  }
}

// Cameras run one after the other, each on all threads, so that shared gradients are added in the
// order of the cameras.
template <typename T, typename Body>
void for_each_camera(ThreadPool& pool, const BlendInputs<T>& in, const Body& body) {
  const Scratch<T> scratch(max_workers(pool), tile_scratch(in.n_channels));
  for (int64_t b = 0; b < in.splats.batch.count(); ++b) {
    for (int64_t camera = 0; camera < in.splats.n_cameras; ++camera) body(b, camera, scratch);
  }
}

}  // namespace

template <typename T>
void blend_forward(ThreadPool& pool, const BlendForward<T>& args) {
  for_each_camera(pool, args.in, [&](int64_t b, int64_t camera, const Scratch<T>& scratch) {
    forward_camera(pool, args, b, camera, scratch);
  });
}

template <typename T>
void blend_backward(ThreadPool& pool, const BlendBackward<T>& args) {
  for_each_camera(pool, args.in, [&](int64_t b, int64_t camera, const Scratch<T>& scratch) {
    backward_camera(pool, args, b, camera, scratch);
  });
}

#define JGD_INSTANTIATE(T)                                               \
  template void blend_forward<T>(ThreadPool&, const BlendForward<T>&);   \
  template void blend_backward<T>(ThreadPool&, const BlendBackward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cpu
