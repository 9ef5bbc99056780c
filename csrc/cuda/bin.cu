// Sorts the splats of all images by depth and counts those of each tile.
//
// All images are sorted at once, N keys each. Equal depths keep the order of the ids because the
// sort is stable; a splat that is not drawn has the largest key and comes last.

#include "cuda/bin.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/sort.h"
#include "cuda/spans.h"
#include "math/blend.h"
#include "stages/image_splats.h"

namespace jgd::cuda {
namespace {

constexpr int kThreads = 256;

// One thread for each splat of each image.
template <typename T, typename Key>
__global__ void depth_keys_kernel(SplatInputs<T> in, int64_t n_splats, Key* keys, uint32_t* ids) {
  const int64_t i = thread_index();
  if (i >= n_splats) return;
  const int64_t image = i / in.n;
  const ImageSplats<T> splats(in, image / in.n_cameras, image % in.n_cameras);
  const int64_t id = i % in.n;
  keys[i] = splats.drawable(id) ? depth_key(splats.depths[id]) : ~Key(0);
  ids[i] = static_cast<uint32_t>(i);
}

// One thread for each splat of each image.
__global__ void image_keys_kernel(const uint32_t* ids, int64_t n, int64_t n_splats,
                                  uint32_t* image_keys) {
  const int64_t i = thread_index();
  if (i < n_splats) image_keys[i] = static_cast<uint32_t>(ids[i] / n);
}

// One thread for each splat of each image.
__global__ void order_kernel(const uint32_t* ids, int64_t n, int64_t n_splats, int32_t* order) {
  const int64_t i = thread_index();
  if (i < n_splats) order[i] = static_cast<int32_t>(ids[i] % n);
}

// One thread for each splat of each image; integer atomics, so the order does not matter.
template <typename T>
__global__ void tile_counts_kernel(SplatInputs<T> in, int64_t n_splats, int n_tiles_x,
                                   int n_tiles_y, int32_t* tile_counts) {
  const int64_t i = thread_index();
  const bool inside = i < n_splats;
  const int64_t image = inside ? i / in.n : 0;
  const int64_t id = inside ? i % in.n : 0;
  const ImageSplats<T> splats(in, image / in.n_cameras, image % in.n_cameras);
  const bool present = inside && splats.drawable(id);
  const Footprint<T> footprint = present ? splats.footprint(id) : Footprint<T>{};
  for_each_span(footprint, present, n_tiles_x, n_tiles_y,
                [&](int owner, int row, Range columns, int64_t) {
                  // `owner` is another lane only where the lanes share a splat.
                  const int64_t first_lane = i - lane();
                  const int64_t of_image = (first_lane + owner) / in.n;
                  int32_t* counts = tile_counts + (of_image * n_tiles_y + row) * n_tiles_x;
                  for (int column = columns.begin; column < columns.end; ++column) {
                    atomic_add(counts + column, int32_t{1});
                  }
                });
}

}  // namespace

template <typename T>
void bin_forward(Context& context, const BinForward<T>& args) {
  const SplatInputs<T>& in = args.in;
  const CallSizes sizes = CallSizes::of(in);
  const int64_t n_images = sizes.n_images();
  const int64_t n_splats = n_images * in.n;
  Workspace workspace = args.workspace;
  DepthOrderArrays<T> arrays(workspace, sizes);
  if (!context.require(workspace.fits(), "workspace is too small")) return;
  const int64_t blocks = n_blocks(n_splats, kThreads);
  launch(context, "depth_keys", depth_keys_kernel<T, typename DepthOrderArrays<T>::Key>, blocks,
         kThreads, 0, in, n_splats, arrays.keys.current, arrays.ids.current);
  sort_pairs(context, arrays.keys, arrays.ids, n_splats, 8 * static_cast<int>(sizeof(T)),
             arrays.temporary);
  if (n_images > 1) {
    launch(context, "image_keys", image_keys_kernel, blocks, kThreads, 0, arrays.ids.current, in.n,
           n_splats, arrays.image_keys.current);
    sort_pairs(context, arrays.image_keys, arrays.ids, n_splats, key_bits(n_images - 1),
               arrays.temporary);
  }
  launch(context, "order", order_kernel, blocks, kThreads, 0, arrays.ids.current, in.n, n_splats,
         args.order.data);
  if (args.tile_counts.data == nullptr) return;
  const int n_tiles_x = tile_count(in.width);
  const int n_tiles_y = tile_count(in.height);
  fill_bytes(context, args.tile_counts.data, 0, n_images * n_tiles_x * n_tiles_y);
  launch(context, "tile_counts", tile_counts_kernel<T>, blocks, kThreads, 0, in, n_splats,
         n_tiles_x, n_tiles_y, args.tile_counts.data);
}

#define JGD_INSTANTIATE(T) template void bin_forward<T>(Context&, const BinForward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cuda
