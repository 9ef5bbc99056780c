// Walks a warp through the splats of its pixels, in both directions of blend.
//
// A warp owns a quarter of a tile, 8x8 pixels, two for each lane, and works alone: it needs no
// barrier of the block and stops as soon as its own pixels are finished. It takes splats in batches
// of 32. Each lane fetches one and tests whether it can be seen anywhere in the quarter; the
// visible ones are put into shared memory in their order, and then all lanes blend them one by one.
//
// The splats come from the list of the tile and, behind the lists, from all splats in depth order.
// The test is the same for both, so an image does not depend on where the lists end.
#pragma once

#include "cuda/device.h"
#include "cuda/search.h"
#include "cuda/tile_lists.h"
#include "math/blend.h"

namespace jgd::cuda {

constexpr int kSubTileSize = kTileSize / 2;
constexpr int kBlendThreads = 4 * kWarpSize;  // a block is a tile
constexpr int kPixelsPerLane = kSubTileSize * kSubTileSize / kWarpSize;
constexpr int kRowsApart = kSubTileSize / kPixelsPerLane;  // between the pixels of a lane
static_assert(kPixelsPerLane == 2);

// The part of an image that this warp owns.
struct SubTile {
  int64_t image;
  int64_t tile;  // number in the image
  int x, y;  // first pixel
  int width, height;  // of the image

  __device__ SubTile(int64_t n_tiles, int n_tiles_x, int width, int height)
      : image(block_index() / n_tiles),
        tile(block_index() % n_tiles),
        x(static_cast<int>(tile % n_tiles_x) * kTileSize + warp_in_block() % 2 * kSubTileSize),
        y(static_cast<int>(tile / n_tiles_x) * kTileSize + warp_in_block() / 2 * kSubTileSize),
        width(width),
        height(height) {}

  __device__ bool empty() const { return x >= width || y >= height; }
  __device__ int column() const { return x + lane() % kSubTileSize; }
  __device__ int row(int i) const { return y + lane() / kSubTileSize + i * kRowsApart; }
  __device__ bool has_pixel(int i) const { return column() < width && row(i) < height; }
  // The index in the image of the lane's pixel i.
  __device__ int64_t pixel(int i) const { return int64_t{row(i)} * width + column(); }
};

// A splat with its colour, laid out so that all lanes read it from shared memory with a few 16-byte
// loads.
template <typename T, int kChannels>
struct alignas(16) ColoredSplat {
  static constexpr int kPadded = kChannels <= 0 ? 0 : (kChannels + 3) / 4 * 4;
  TileSplat<T> splat;
  T color[kPadded > 0 ? kPadded : 4];
};

// The splats of a batch that can be seen in the part, in the shared memory of a warp.
template <typename T, int kChannels>
struct WarpBatch {
  ColoredSplat<T, kChannels> splats[kWarpSize];
  int32_t ranks[kWarpSize];
};

// The positions that a warp walks through, from near to far: first those of the tile's list, then
// those of the ranks behind all lists.
template <typename T>
struct Walk {
  const SubTile& part;
  const TileSplat<T>* splats;  // of the image, by rank
  const uint32_t* list;  // of the tile
  int64_t n_list;
  int32_t n_listed_ranks;
  int32_t end_rank;
  const int32_t* radii;  // of the image, by id; null with the exact footprint

  __device__ Walk(const TileLists<T>& lists, const SubTile& part, const SplatInputs<T>& in)
      : part(part), splats(lists.splats + part.image * lists.n), radii(nullptr) {
    const ImageLists& image = lists.images[part.image];
    const int64_t* bounds = lists.tile_begin + part.image * lists.n_tiles() + part.tile;
    list = lists.ranks + bounds[0];
    n_list = bounds[1] - bounds[0];
    n_listed_ranks = image.n_listed_ranks;
    end_rank = image.end_rank;
    if (in.three_sigma) {
      radii = in.radii.at(in.batch, part.image / in.n_cameras) + part.image % in.n_cameras * in.n;
    }
  }

  // The number of positions, and of positions with a rank below `rank`.
  __device__ int64_t size() const { return n_list + max(end_rank - n_listed_ranks, 0); }
  __device__ int64_t size_below(int32_t rank) const {
    if (rank > n_listed_ranks) return n_list + (min(rank, end_rank) - n_listed_ranks);
    return lower_bound(list, n_list, static_cast<uint32_t>(rank));
  }

  // Puts the splats at the given positions, one for each lane, into `batch` in the order of the
  // lanes if they can be seen here; returns how many. A position outside [0, size()) has no splat.
  // `colors` has n_channels for each Gaussian; the first n_used are copied.
  template <int kChannels>
  __device__ int fetch(int64_t position, const T* colors, int64_t n_channels, int n_used,
                       WarpBatch<T, kChannels>& batch) const {
    bool present = position >= 0 && position < size();
    int32_t rank = 0;
    TileSplat<T> splat;
    if (present) {
      const bool listed = position < n_list;
      rank = listed ? static_cast<int32_t>(list[position])
                    : static_cast<int32_t>(position - n_list) + n_listed_ranks;
      splat = splats[rank];
      const Vec2<T> first{T(part.x) + T(0.5), T(part.y) + T(0.5)};
      constexpr T side = T(kSubTileSize - 1);
      present =
          splat.id >= 0 &&
          may_be_seen(splat.exponent, splat.center, first, {first.x + side, first.y + side}) &&
          (listed || in_footprint(splat));
    }
    const unsigned found = ballot(present);
    if (present) {
      const int slot = rank_among(found);
      ColoredSplat<T, kChannels>& item = batch.splats[slot];
      item.splat = splat;
      batch.ranks[slot] = rank;
      JGD_UNROLL
      for (int d = 0; d < kChannels; ++d) {
        item.color[d] = d < n_used ? colors[splat.id * n_channels + d] : T(0);
      }
    }
    sync_warp();
    return count_bits(found);
  }

  // The exact footprint is decided by the exponent alone, the original rasterizers' by the tile
  // too.
  __device__ bool in_footprint(const TileSplat<T>& splat) const {
    if (radii == nullptr) return true;
    const Footprint<T> f = square_footprint(splat.center, radii[splat.id]);
    const Range rows = tile_rows(f, tile_count(part.height));
    const Range columns = tile_columns(f, 0, tile_count(part.width));
    const int row = part.y / kTileSize, column = part.x / kTileSize;
    return row >= rows.begin && row < rows.end && column >= columns.begin && column < columns.end;
  }
};

}  // namespace jgd::cuda
