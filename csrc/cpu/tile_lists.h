// Declares the index of one image's splats by tile, and the lists built from it.
//
// Bin publishes only the depth order and the length of each list; blend builds the lists and frees
// them, because their size is known only at run time. A list is in depth order. Every result is
// independent of the number of threads: a band of tile rows belongs to one worker, which walks the
// splats in depth order.
#pragma once

#include <cstdint>

#include "cpu/kernels/touched_tiles.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/tile.h"
#include "stages/bin.h"
#include "stages/image_splats.h"

namespace jgd::cpu {

// The splats of one image and the tiles that each of them touches.
template <typename T>
class TileIndex {
 public:
  // `colors` may be null; a splat whose colour is not finite is not drawn. Entries of `order`
  // outside 0..n-1 are skipped, and so are repeated ones, so that the gradient of a splat has one
  // writer.
  TileIndex(ThreadPool& pool, const SplatInputs<T>& in, const ImageSplats<T>& splats,
            const int32_t* order, const T* colors, int64_t n_channels);

  int n_tiles_x() const { return n_tiles_x_; }
  int64_t n_tiles() const { return int64_t{n_tiles_x_} * n_tiles_y_; }
  int64_t n_splats() const { return n_; }
  const TileSplat<T>* splats() const { return splats_.get(); }
  const int32_t* tile_counts() const { return tile_counts_.get(); }
  int64_t n_instances() const;  // (tile, splat) pairs

  // Returns the bounds of groups of consecutive tiles whose lists fit into a memory limit; a group
  // is a single tile if even that is larger. The index itself takes another 8 bytes for each splat
  // and each tile row that it touches.
  Vector<int64_t> groups(int64_t bytes_per_instance) const;

 private:
  template <typename>
  friend class TileLists;

  void find_tiles(ThreadPool& pool, const ImageSplats<T>& splats, const T* colors,
                  int64_t n_channels);
  void find_drawn(const int32_t* order);
  void count(const TouchedTiles& tiles, int32_t n, int32_t* differences) const;
  void sum_counts(ThreadPool& pool);

  int64_t n_;
  int n_tiles_x_;
  int n_tiles_y_;
  AlignedArray<TileSplat<T>> splats_;  // by index of the Gaussian
  Array<TouchedTiles> touched_;  // by index of the Gaussian
  Vector<Array<Range>> columns_;  // behind TouchedTiles::columns, by piece
  Vector<int32_t> drawn_;  // indices of the splats that touch a tile, by depth
  Vector<Array<int32_t>> differences_;  // along the rows of counts, by worker
  Array<int32_t> tile_counts_;
};

// The lists of a group of tiles. An instance is one (tile, splat) pair.
template <typename T>
class TileLists {
 public:
  // With slots, the instances of a splat are numbered consecutively in tile order, so that the
  // backward pass can store one result per instance and sum them in a fixed order.
  TileLists(ThreadPool& pool, const TileIndex<T>& index, int64_t tile_begin, int64_t tile_end,
            bool with_slots);

  int64_t size(int64_t tile) const { return begin_[tile + 1 - first_] - begin_[tile - first_]; }
  // Indices of the Gaussians, by depth.
  const int32_t* ids(int64_t tile) const { return ids_.get() + begin_[tile - first_]; }
  const uint32_t* slots(int64_t tile) const { return slots_.get() + begin_[tile - first_]; }
  int64_t n_instances() const { return n_instances_; }
  // The first slot of each splat, by index of the Gaussian, and the end: n + 1 entries.
  const int64_t* slot_begin() const { return slot_begin_.get(); }

 private:
  void number_slots(ThreadPool& pool, const TileIndex<T>& index);
  Vector<int> bands(const ThreadPool& pool) const;
  void emit(ThreadPool& pool, const TileIndex<T>& index);
  void emit_band(const TileIndex<T>& index, Range band, int64_t* cursor);
  Range rows_in_group(const TouchedTiles& tiles) const;
  Range columns_in_group(const TouchedTiles& tiles, int row) const;

  int64_t n_tiles_x_;
  int64_t first_;
  int64_t last_;
  int row_begin_;
  int row_end_;
  int64_t n_instances_;
  Array<int64_t> begin_;  // by tile, relative to the first tile of the group
  Array<int32_t> ids_;  // by instance
  Array<uint32_t> slots_;  // by instance
  Array<int64_t> slot_begin_;
};

}  // namespace jgd::cpu
