// Finds the tiles that the splats of an image touch and lists the splats of each tile.

#include "cpu/tile_lists.h"

#include <algorithm>
#include <numeric>

#include "cpu/dispatch.h"

namespace jgd::cpu {
namespace {

constexpr const char* kIndexPurpose = "the tiles that the splats touch";
constexpr const char* kCountsPurpose = "the counts of the tiles";
constexpr const char* kListsPurpose = "the lists of the tiles";

// The most memory that lists and gradient slots take at the same time.
constexpr int64_t kMaxListBytes = int64_t{256} << 20;

constexpr int64_t kSplatGrain = 8192;

// How many splats lie between the prefetch of one and its use.
constexpr int64_t kPrefetch = 16;

// Tiles per claim where counts are only added up, and (tile, splat) pairs per band of the lists.
constexpr int64_t kCountGrain = 16384;
constexpr int64_t kBandGrain = 8192;

}  // namespace

template <typename T>
TileIndex<T>::TileIndex(ThreadPool& pool, const SplatInputs<T>& in, const ImageSplats<T>& splats,
                        const int32_t* order, const T* colors, int64_t n_channels)
    : n_(in.n),
      n_tiles_x_(tile_count(in.width)),
      n_tiles_y_(tile_count(in.height)),
      splats_(n_, kIndexPurpose),
      touched_(make_array<TouchedTiles>(n_, kIndexPurpose)),
      columns_((n_ + kPieceSplats - 1) / kPieceSplats, kIndexPurpose),
      drawn_(kIndexPurpose),
      differences_(max_workers(pool), kCountsPurpose),
      tile_counts_(make_array<int32_t>(n_tiles(), kCountsPurpose)) {
  find_tiles(pool, splats, colors, n_channels);
  find_drawn(order);
  sum_counts(pool);
}

template <typename T>
void TileIndex<T>::find_tiles(ThreadPool& pool, const ImageSplats<T>& splats, const T* colors,
                              int64_t n_channels) {
  const int64_t n_pieces = static_cast<int64_t>(columns_.size());
  const Scratch<T> scratch(max_workers(pool), kFootprintNumbers * kPieceSplats);
  parallel_for(pool, n_pieces, 1, [&](int64_t worker, int64_t first, int64_t last) {
    if (!differences_[worker]) {
      differences_[worker] = make_array<int32_t>(n_tiles(), kCountsPurpose);
      std::fill(differences_[worker].get(), differences_[worker].get() + n_tiles(), 0);
    }
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t begin = piece * kPieceSplats;
      const int64_t end = std::min(n_, begin + kPieceSplats);
      IndexPiece<T> args{splats};
      args.colors = colors;
      args.n_channels = n_channels;
      args.n_tiles_x = n_tiles_x_;
      args.n_tiles_y = n_tiles_y_;
      args.tile_splats = splats_.get();
      args.touched = touched_.get();
      args.scratch = scratch.of(worker);
      kernels<T>().touched_tiles->rows(args, begin, end);
      int64_t n_rows = 0;
      for (int64_t id = begin; id < end; ++id) {
        n_rows += std::max(0, touched_[id].rows.end - touched_[id].rows.begin);
      }
      columns_[piece] = make_array<Range>(n_rows, kIndexPurpose);
      kernels<T>().touched_tiles->columns(args, begin, end, columns_[piece].get());
      for (int64_t id = begin; id < end; ++id) count(touched_[id], 1, differences_[worker].get());
    }
  });
}

// Splats that the order does not name are not drawn.
template <typename T>
void TileIndex<T>::find_drawn(const int32_t* order) {
  enum : uint8_t { kNothing, kTouches, kListed };
  // Small, because the order visits it at random.
  const auto state = make_array<uint8_t>(n_, kIndexPurpose);
  int64_t n_touching = 0;
  for (int64_t id = 0; id < n_; ++id) {
    state[id] = touched_[id].rows.empty() ? kNothing : kTouches;
    n_touching += state[id] == kTouches;
  }
  drawn_.resize(n_touching);
  int64_t n_drawn = 0;
  for (int64_t rank = 0; rank < n_ && n_drawn < n_touching; ++rank) {
    const int32_t id = order[rank];
    if (id < 0 || id >= n_ || state[id] != kTouches) continue;
    state[id] = kListed;
    drawn_[n_drawn++] = id;
  }
  if (n_drawn == n_touching) return;
  drawn_.resize(n_drawn);
  for (int64_t id = 0; id < n_; ++id) {
    if (state[id] != kTouches) continue;
    count(touched_[id], -1, differences_[0].get());
    touched_[id].rows = {0, 0};
  }
}

// Adds n to the counts of the tiles. It changes the differences of the counts along each row, so
// that a wide splat costs as much as a narrow one.
template <typename T>
void TileIndex<T>::count(const TouchedTiles& tiles, int32_t n, int32_t* differences) const {
  for (int row = tiles.rows.begin; row < tiles.rows.end; ++row) {
    const Range columns = tiles.columns[row - tiles.rows.begin];
    if (columns.empty()) continue;
    int32_t* d = differences + int64_t{row} * n_tiles_x_;
    d[columns.begin] += n;
    if (columns.end < n_tiles_x_) d[columns.end] -= n;
  }
}

template <typename T>
void TileIndex<T>::sum_counts(ThreadPool& pool) {
  parallel_for(pool, n_tiles_y_, std::max<int64_t>(1, kCountGrain / n_tiles_x_),
               [&](int64_t, int64_t row_begin, int64_t row_end) {
                 for (int64_t row = row_begin; row < row_end; ++row) {
                   int32_t* counts = tile_counts_.get() + row * n_tiles_x_;
                   std::fill(counts, counts + n_tiles_x_, 0);
                   for (const auto& differences : differences_) {
                     if (!differences) continue;
                     for (int64_t x = 0; x < n_tiles_x_; ++x) {
                       counts[x] += differences[row * n_tiles_x_ + x];
                     }
                   }
                   std::partial_sum(counts, counts + n_tiles_x_, counts);
                 }
               });
}

template <typename T>
int64_t TileIndex<T>::n_instances() const {
  return std::accumulate(tile_counts_.get(), tile_counts_.get() + n_tiles(), int64_t{0});
}

template <typename T>
Vector<int64_t> TileIndex<T>::groups(int64_t bytes_per_instance) const {
  const int64_t max_instances = kMaxListBytes / bytes_per_instance;
  Vector<int64_t> bounds(1, kListsPurpose);
  int64_t n_instances = 0;
  for (int64_t tile = 0; tile < n_tiles(); ++tile) {
    if (n_instances > 0 && n_instances + tile_counts_[tile] > max_instances) {
      bounds.push_back(tile);
      n_instances = 0;
    }
    n_instances += tile_counts_[tile];
  }
  bounds.push_back(n_tiles());
  return bounds;
}

template <typename T>
TileLists<T>::TileLists(ThreadPool& pool, const TileIndex<T>& index, int64_t tile_begin,
                        int64_t tile_end, bool with_slots)
    : n_tiles_x_(index.n_tiles_x()),
      first_(tile_begin),
      last_(tile_end),
      row_begin_(static_cast<int>(tile_begin / index.n_tiles_x())),
      row_end_(static_cast<int>((tile_end - 1) / index.n_tiles_x() + 1)) {
  begin_ = make_array<int64_t>(tile_end - tile_begin + 1, kListsPurpose);
  begin_[0] = 0;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    begin_[tile + 1 - first_] = begin_[tile - first_] + index.tile_counts()[tile];
  }
  n_instances_ = begin_[tile_end - tile_begin];
  ids_ = make_array<int32_t>(n_instances_, kListsPurpose);
  if (with_slots) number_slots(pool, index);
  emit(pool, index);
}

template <typename T>
Range TileLists<T>::rows_in_group(const TouchedTiles& tiles) const {
  return {std::max(tiles.rows.begin, row_begin_), std::min(tiles.rows.end, row_end_)};
}

template <typename T>
Range TileLists<T>::columns_in_group(const TouchedTiles& tiles, int row) const {
  const Range columns = tiles.columns[row - tiles.rows.begin];
  const int64_t row_start = row * n_tiles_x_;
  return {static_cast<int>(std::max<int64_t>(columns.begin, first_ - row_start)),
          static_cast<int>(std::min<int64_t>(columns.end, last_ - row_start))};
}

template <typename T>
void TileLists<T>::number_slots(ThreadPool& pool, const TileIndex<T>& index) {
  slots_ = make_array<uint32_t>(n_instances_, kListsPurpose);
  slot_begin_ = make_array<int64_t>(index.n_splats() + 1, kListsPurpose);
  slot_begin_[0] = 0;
  parallel_for(pool, index.n_splats(), kSplatGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t id = begin; id < end; ++id) {
      const TouchedTiles& tiles = index.touched_[id];
      const Range rows = rows_in_group(tiles);
      int64_t n = 0;
      for (int row = rows.begin; row < rows.end; ++row) {
        const Range columns = columns_in_group(tiles, row);
        n += std::max(0, columns.end - columns.begin);
      }
      slot_begin_[id + 1] = n;
    }
  });
  std::partial_sum(slot_begin_.get(), slot_begin_.get() + index.n_splats() + 1, slot_begin_.get());
}

// Returns the bounds of bands of tile rows, at most one band for each worker, that hold about the
// same number of instances.
template <typename T>
Vector<int> TileLists<T>::bands(const ThreadPool& pool) const {
  const int64_t n_bands = std::min(max_workers(pool), n_instances_ / kBandGrain + 1);
  Vector<int> bounds(1, row_begin_, kListsPurpose);
  for (int row = row_begin_ + 1; row < row_end_; ++row) {
    const int64_t above = begin_[row * n_tiles_x_ - first_];
    const int64_t n_so_far = static_cast<int64_t>(bounds.size());
    if (n_so_far < n_bands && above * n_bands >= n_instances_ * n_so_far) {
      bounds.push_back(row);
    }
  }
  bounds.push_back(row_end_);
  return bounds;
}

template <typename T>
void TileLists<T>::emit(ThreadPool& pool, const TileIndex<T>& index) {
  const Vector<int> bounds = bands(pool);
  Vector<int64_t> cursor(begin_.get(), begin_.get() + (last_ - first_), kListsPurpose);
  parallel_for(pool, bounds.size() - 1, 1, [&](int64_t, int64_t begin, int64_t end) {
    emit_band(index, {bounds[begin], bounds[end]}, cursor.data());
  });
}

template <typename T>
void TileLists<T>::emit_band(const TileIndex<T>& index, Range band, int64_t* cursor) {
  const Vector<int32_t>& drawn = index.drawn_;
  const int64_t n_drawn = static_cast<int64_t>(drawn.size());
  for (int64_t rank = 0; rank < n_drawn; ++rank) {
    if (rank + 2 * kPrefetch < n_drawn) {
      __builtin_prefetch(&index.touched_[drawn[rank + 2 * kPrefetch]]);
      __builtin_prefetch(index.touched_[drawn[rank + kPrefetch]].columns);
    }
    const int32_t id = drawn[rank];
    const TouchedTiles& tiles = index.touched_[id];
    const Range rows = rows_in_group(tiles);
    if (rows.begin >= band.end || rows.end <= band.begin) continue;
    uint32_t slot = 0;
    if (slots_) slot = static_cast<uint32_t>(slot_begin_[id]);
    for (int row = rows.begin; row < std::min(rows.end, band.end); ++row) {
      const Range columns = columns_in_group(tiles, row);
      if (columns.empty()) continue;
      if (row < band.begin) {  // instances of another band: they only count for our numbers
        slot += static_cast<uint32_t>(columns.end - columns.begin);
        continue;
      }
      const int64_t row_start = row * n_tiles_x_ - first_;
      for (int column = columns.begin; column < columns.end; ++column) {
        const int64_t instance = cursor[row_start + column]++;
        ids_[instance] = id;
        if (slots_) slots_[instance] = slot++;
      }
    }
  }
}

#define JGD_INSTANTIATE(T)     \
  template class TileIndex<T>; \
  template class TileLists<T>;
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cpu
