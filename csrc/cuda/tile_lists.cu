// Builds the tile lists: counts the tiles of each splat, sums the counts, writes (tile, rank) pairs
// in depth order and sorts them by tile.

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/search.h"
#include "cuda/sort.h"
#include "cuda/spans.h"
#include "cuda/tile_lists.h"
#include "stages/image_splats.h"

namespace jgd::cuda {
namespace {

constexpr int kThreads = 256;

// The image of a thread and its rank in it; `inside` is false beyond the last one.
template <typename T>
struct Place {
  int64_t index;  // image * n + rank
  bool inside;
  int64_t image, rank;
  int64_t batch, camera;

  __device__ explicit Place(const SplatInputs<T>& in, int64_t n_splats)
      : index(thread_index()),
        inside(index < n_splats),
        image(inside ? index / in.n : 0),
        rank(inside ? index % in.n : 0),
        batch(image / in.n_cameras),
        camera(image % in.n_cameras) {}

  __device__ int32_t id(const BlendInputs<T>& in) const {
    return in.order.at(in.splats.batch, batch)[camera * in.splats.n + rank];
  }
};

// One thread for each rank of each image. The order is not trusted: an id that is in it twice is
// drawn where it comes first.
template <typename T>
__global__ void first_ranks_kernel(BlendInputs<T> in, int64_t n_splats, uint32_t* first_rank) {
  const Place<T> place(in.splats, n_splats);
  if (!place.inside) return;
  const int32_t id = place.id(in);
  if (id < 0 || id >= in.splats.n) return;
  atomic_min(first_rank + place.image * in.splats.n + id, static_cast<uint32_t>(place.rank));
}

template <typename T>
__device__ bool colors_finite(const BlendInputs<T>& in, const Place<T>& place, int32_t id) {
  const T* colors = in.colors_of(place.batch, place.camera) + id * in.n_channels;
  T zero = T(0);
  for (int64_t d = 0; d < in.n_channels; ++d) zero += T(0) * colors[d];
  return zero == T(0);
}

// Writes the tile splats and the number of tiles of each. One thread for each rank of each image,
// one warp for 32 of them.
template <typename T>
__global__ void tile_splats_kernel(BlendInputs<T> in, int64_t n_splats, int n_tiles_x,
                                   int n_tiles_y, const uint32_t* first_rank,
                                   TileSplat<T>* tile_splats, int64_t* pairs) {
  const Place<T> place(in.splats, n_splats);
  const ImageSplats<T> splats(in.splats, place.batch, place.camera);
  const int32_t id = place.inside ? place.id(in) : -1;
  const bool drawn = id >= 0 && id < in.splats.n &&
                     first_rank[place.image * in.splats.n + id] == place.rank &&
                     splats.drawable(id) && colors_finite(in, place, id);
  Footprint<T> footprint{};
  TileSplat<T> splat{};
  splat.id = -1;
  if (drawn) {
    footprint = splats.footprint(id);
    splat = {load_vec2(splats.means2d, id),
             make_exponent(load_sym2(splats.conics, id), splats.opacities[id]), splats.depths[id],
             id};
  }
  const int64_t n_tiles =
      for_each_span(footprint, drawn, n_tiles_x, n_tiles_y, [](int, int, Range, int64_t) {});
  if (!place.inside) return;
  if (n_tiles == 0) splat.id = -1;
  tile_splats[place.index] = splat;
  pairs[place.index] = n_tiles;
}

__device__ inline int64_t pairs_before(const int64_t* pairs, int64_t index) {
  return index > 0 ? pairs[index - 1] : 0;
}

__device__ inline int32_t saturated(int64_t n) {
  return n < 2147483647 ? static_cast<int32_t>(n) : 2147483647;
}

// Finds the extent of the lists. One thread for each image; `pairs` is already summed.
__global__ void images_kernel(const int64_t* pairs, int64_t n, int64_t n_images, int64_t capacity,
                              ImageLists* images, int32_t* n_isects, int32_t* n_isects_listed) {
  const int64_t image = thread_index();
  if (image >= n_images) return;
  const int64_t before = pairs_before(pairs, image * n);
  const int64_t* sums = pairs + image * n;
  ImageLists lists{};
  if (n > 0) {
    lists.n_pairs = sums[n - 1] - before;
    const int64_t listed = lower_bound(sums, n, before + capacity + 1);
    lists.n_listed = listed > 0 ? sums[listed - 1] - before : 0;
    lists.n_listed_ranks = static_cast<int32_t>(listed);
    if (lists.n_pairs > 0) {
      lists.end_rank = static_cast<int32_t>(lower_bound(sums, n, before + lists.n_pairs) + 1);
    }
  }
  images[image] = lists;
  if (n_isects) n_isects[image] = saturated(lists.n_pairs);
  if (n_isects_listed) n_isects_listed[image] = saturated(lists.n_listed);
}

// Writes the pairs of a splat where the sums put them, if all of them fit. One thread for each rank
// of each image, one warp for 32 of them.
template <typename T>
__global__ void emit_kernel(BlendInputs<T> in, int64_t n_splats, int n_tiles_x, int n_tiles_y,
                            const TileSplat<T>* tile_splats, const int64_t* pairs, uint32_t* tiles,
                            uint32_t* ranks) {
  const Place<T> place(in.splats, n_splats);
  const ImageSplats<T> splats(in.splats, place.batch, place.camera);
  const int32_t id = place.inside ? tile_splats[place.index].id : -1;
  int64_t begin = 0;  // of the splat's pairs, among the pairs of its image
  int64_t end = 0;
  if (id >= 0) {
    const int64_t before = pairs_before(pairs, place.image * in.splats.n);
    begin = pairs_before(pairs, place.index) - before;
    end = pairs[place.index] - before;
  }
  const bool listed = id >= 0 && end <= in.capacity;
  const Footprint<T> footprint = listed ? splats.footprint(id) : Footprint<T>{};
  const int64_t n_tiles = int64_t{n_tiles_x} * n_tiles_y;
  // All lanes write a large splat, so its numbers are in shared memory.
  struct Owner {
    int64_t image, rank, begin;
  };
  Owner* owners = shared_memory<Owner>() + warp_in_block() * kWarpSize;
  owners[lane()] = {place.image, place.rank, begin};
  sync_warp();
  for_each_span(footprint, listed, n_tiles_x, n_tiles_y,
                [&](int owner, int row, Range columns, int64_t first) {
                  const Owner& splat = owners[owner];
                  const int64_t at = splat.image * in.capacity + splat.begin + first;
                  const int64_t tile =
                      splat.image * n_tiles + int64_t{row} * n_tiles_x + columns.begin;
                  for (int i = 0; i < columns.end - columns.begin; ++i) {
                    tiles[at + i] = static_cast<uint32_t>(tile + i);
                    ranks[at + i] = static_cast<uint32_t>(splat.rank);
                  }
                });
}

// Finds where each list begins. One thread for each tile of all images, and one for the end.
__global__ void tile_begin_kernel(const uint32_t* tiles, int64_t n_pairs, int64_t n_tiles,
                                  int64_t* tile_begin) {
  const int64_t tile = thread_index();
  if (tile > n_tiles) return;
  tile_begin[tile] = lower_bound(tiles, n_pairs, static_cast<uint32_t>(tile));
}

}  // namespace

template <typename T>
CallSizes call_sizes(const BlendInputs<T>& in) {
  CallSizes sizes = CallSizes::of(in.splats);
  sizes.width = in.splats.width;
  sizes.height = in.splats.height;
  sizes.n_channels = in.n_channels;
  sizes.capacity = in.capacity;
  return sizes;
}

template <typename T>
TileLists<T> build_tile_lists(Context& context, const BlendInputs<T>& in,
                              const TileListArrays<T>& arrays, int32_t* n_isects,
                              int32_t* n_isects_listed) {
  const CallSizes sizes = call_sizes(in);
  const int64_t n_images = sizes.n_images();
  const int64_t n_splats = n_images * sizes.n;
  const int64_t n_tiles = n_images * sizes.n_tiles();
  const int64_t n_pairs = n_images * sizes.capacity;
  const int n_tiles_x = tile_count(in.splats.width);
  const int n_tiles_y = tile_count(in.splats.height);
  const int64_t blocks = n_blocks(n_splats, kThreads);

  fill_bytes(context, arrays.first_rank, 0xff, n_splats);
  launch(context, "first_ranks", first_ranks_kernel<T>, blocks, kThreads, 0, in, n_splats,
         arrays.first_rank);
  launch(context, "tile_splats", tile_splats_kernel<T>, blocks, kThreads, 0, in, n_splats,
         n_tiles_x, n_tiles_y, arrays.first_rank, arrays.splats, arrays.pairs);
  inclusive_sum(context, arrays.pairs, n_splats, arrays.temporary);
  launch(context, "images", images_kernel, n_blocks(n_images, kThreads), kThreads, 0, arrays.pairs,
         sizes.n, n_images, sizes.capacity, arrays.images, n_isects, n_isects_listed);

  // Places that no splat takes keep the largest key, which sorts them behind all lists.
  DoubleArray<uint32_t> tiles = arrays.tiles;
  DoubleArray<uint32_t> ranks = arrays.ranks;
  fill_bytes(context, tiles.current, 0xff, n_pairs);
  constexpr int64_t kOwnerBytes = 3 * sizeof(int64_t);
  launch(context, "emit", emit_kernel<T>, blocks, kThreads, kThreads * kOwnerBytes, in, n_splats,
         n_tiles_x, n_tiles_y, arrays.splats, arrays.pairs, tiles.current, ranks.current);
  sort_pairs(context, tiles, ranks, n_pairs, key_bits(n_tiles), arrays.temporary);
  launch(context, "tile_begin", tile_begin_kernel, n_blocks(n_tiles + 1, kThreads), kThreads, 0,
         tiles.current, n_pairs, n_tiles, arrays.tile_begin);
  TileLists<T> lists;
  lists.splats = arrays.splats;
  lists.images = arrays.images;
  lists.ranks = ranks.current;
  lists.tile_begin = arrays.tile_begin;
  lists.n = sizes.n;
  lists.n_tiles_x = n_tiles_x;
  lists.n_tiles_y = n_tiles_y;
  return lists;
}

#define JGD_INSTANTIATE(T)                                                                 \
  template CallSizes call_sizes<T>(const BlendInputs<T>&);                                 \
  template TileLists<T> build_tile_lists<T>(Context&, const BlendInputs<T>&,               \
                                            const TileListArrays<T>&, int32_t*, int32_t*);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cuda
