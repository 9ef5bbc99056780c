// Gives the drivers that walk the tile lists of an image their loop over its tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "cpu/kernels/blend.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "cpu/tile_lists.h"
#include "stages/blend.h"

namespace jgd::cpu {

// The inputs that the tiles of one camera share.
template <typename T>
struct CameraInputs {
  ImageSplats<T> splats;
  const int32_t* order;
  const T* colors;
  const T* background;

  CameraInputs(const BlendInputs<T>& in, int64_t b, int64_t camera)
      : splats(in.splats, b, camera),
        order(in.order.at(in.splats.batch, b) + camera * in.splats.n),
        colors(in.colors_of(b, camera)),
        background(in.background_of(b, camera)) {}
};

template <typename T>
Tile<T> make_tile(const BlendInputs<T>& in, const CameraInputs<T>& camera,
                  const TileIndex<T>& index, const TileLists<T>& lists, int64_t tile, T* scratch) {
  Tile<T> args;
  args.splats = index.splats();
  args.ids = lists.ids(tile);
  args.n = lists.size(tile);
  args.colors = camera.colors;
  args.background = camera.background;
  args.n_channels = in.n_channels;
  args.x = static_cast<int>(tile % index.n_tiles_x()) * kTileSize;
  args.y = static_cast<int>(tile / index.n_tiles_x()) * kTileSize;
  args.width = in.splats.width;
  args.height = in.splats.height;
  args.scratch = scratch;
  return args;
}

// Calls body(worker, tile) for the tiles [begin, end), a few per claim: enough to be worth the cost
// of a claim, few enough to keep the threads equally busy. Tiles with long lists come first, so
// that no thread begins one when the others are done.
template <typename T, typename Body>
void for_each_tile(ThreadPool& pool, const TileIndex<T>& index, int64_t begin, int64_t end,
                   const Body& body) {
  constexpr int64_t kInstances = 256;
  const int64_t n_instances = index.n_instances(), n_tiles = index.n_tiles();
  Vector<int32_t> order(end - begin, "the order of the tiles");
  std::iota(order.begin(), order.end(), static_cast<int32_t>(begin));
  std::stable_partition(order.begin(), order.end(), [&](int32_t tile) {
    return index.tile_counts()[tile] * n_tiles > 2 * n_instances;
  });
  const int64_t grain = std::max<int64_t>(1, kInstances * n_tiles / (n_instances + n_tiles));
  parallel_for(pool, end - begin, grain, [&](int64_t worker, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) body(worker, order[i]);
  });
}

template <typename T>
T* camera_of(const Batched<T>& array, const BatchShape& batch, int64_t b, int64_t offset) {
  return array.data ? array.at(batch, b) + offset : nullptr;
}

}  // namespace jgd::cpu
