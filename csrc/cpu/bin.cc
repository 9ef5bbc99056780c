#include "cpu/bin.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "stages/load.h"

namespace jgd::cpu {
namespace {

// Lists and gradient slots that exist at the same time.
constexpr int64_t kMaxListBytes = int64_t{256} << 20;

constexpr int64_t kSplatGrain = 1024;

// Splats between the request for one and its use.
constexpr int64_t kPrefetch = 8;

// Rows of tiles per claim: a few claims per worker even out rows of different weight.
int64_t row_grain(const ThreadPool& pool, int64_t n_rows) {
  return std::max<int64_t>(1, n_rows / (4 * max_workers(pool)));
}

// Stable least-significant-digit radix sort of (key, id) pairs.
template <typename Key>
void radix_sort(std::vector<std::pair<Key, int32_t>>& items) {
  constexpr int kDigitBits = 11;
  constexpr Key kMask = (Key{1} << kDigitBits) - 1;
  std::vector<std::pair<Key, int32_t>> other(items.size());
  std::vector<int64_t> offsets(kMask + 1);
  for (int shift = 0; shift < static_cast<int>(8 * sizeof(Key)); shift += kDigitBits) {
    std::fill(offsets.begin(), offsets.end(), 0);
    for (const auto& item : items) ++offsets[(item.first >> shift) & kMask];
    int64_t sum = 0;
    for (int64_t& offset : offsets) sum += std::exchange(offset, sum);
    for (const auto& item : items) other[offsets[(item.first >> shift) & kMask]++] = item;
    items.swap(other);
  }
}

// Depth order of one image: a permutation of 0..n-1, ties by index, what is not drawn last.
template <typename T>
void depth_order(const ImageSplats<T>& splats, int64_t n, int32_t* order) {
  using Key = decltype(depth_key(T(0)));
  std::vector<std::pair<Key, int32_t>> items;
  items.reserve(n);
  std::vector<int32_t> culled;
  for (int64_t id = 0; id < n; ++id) {
    if (splats.drawable(id)) {
      items.emplace_back(depth_key(splats.depths[id]), static_cast<int32_t>(id));
    } else {
      culled.push_back(static_cast<int32_t>(id));
    }
  }
  radix_sort(items);
  for (const auto& item : items) *order++ = item.second;
  std::copy(culled.begin(), culled.end(), order);
}

}  // namespace

template <typename T>
TileIndex<T>::TileIndex(ThreadPool& pool, const SplatInputs<T>& in, const ImageSplats<T>& splats,
                        const int32_t* order, const T* colors, int64_t n_channels)
    : n_(in.n),
      width_(in.width),
      height_(in.height),
      n_tiles_x_(tile_count(in.width)),
      n_tiles_y_(tile_count(in.height)) {
  packed_ = make_array<PackedSplat<T>>(n_);
  touched_ = make_array<TouchedTiles>(n_);
  columns_.resize((n_ + kSplatGrain - 1) / kSplatGrain);
  pack(pool, splats, colors, n_channels);
  find_drawn(order);
  tile_counts_ = make_array<int32_t>(n_tiles());
  count_tiles(pool);
}

template <typename T>
void TileIndex<T>::pack(ThreadPool& pool, const ImageSplats<T>& splats, const T* colors,
                        int64_t n_channels) {
  const auto pack_piece = [&](int64_t piece) {
    const int64_t begin = piece * kSplatGrain;
    const int64_t end = std::min(n_, begin + kSplatGrain);
    Footprint<T> footprints[kSplatGrain];
    int64_t n_rows = 0;
    for (int64_t id = begin; id < end; ++id) {
      touched_[id].rows = {0, 0};
      if (!splats.drawable(id)) continue;
      T zero = T(0);
      for (int64_t d = 0; colors && d < n_channels; ++d) zero += T(0) * colors[id * n_channels + d];
      if (!(zero == T(0))) continue;
      const Footprint<T> f = footprints[id - begin] = splats.footprint(id);
      const Range rows = tile_rows(f, n_tiles_y_);
      if (rows.empty()) continue;
      touched_[id].rows = rows;
      n_rows += rows.end - rows.begin;
      packed_[id] = {f.center, make_exponent(load_sym2(splats.conics, id), splats.opacities[id]),
                     splats.depths[id]};
    }
    columns_[piece] = make_array<Range>(n_rows);
    Range* columns = columns_[piece].get();
    for (int64_t id = begin; id < end; ++id) {
      touched_[id].columns = columns;
      const Range rows = touched_[id].rows;
      for (int row = rows.begin; row < rows.end; ++row) {
        *columns++ = tile_columns(footprints[id - begin], row, n_tiles_x_);
      }
    }
  };
  parallel_for(pool, columns_.size(), 1, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) pack_piece(piece);
  });
}

template <typename T>
void TileIndex<T>::find_drawn(const int32_t* order) {
  std::vector<bool> listed(n_, false);
  drawn_.reserve(n_);
  for (int64_t rank = 0; rank < n_; ++rank) {
    const int32_t id = order[rank];
    if (id < 0 || id >= n_ || touched_[id].rows.empty() || listed[id]) continue;
    listed[id] = true;
    drawn_.push_back(id);
  }
  for (int64_t id = 0; id < n_; ++id) {
    if (!listed[id]) touched_[id].rows = {0, 0};
  }
}

template <typename T>
void TileIndex<T>::count_tiles(ThreadPool& pool) {
  const auto count_rows = [&](int64_t, int64_t row_begin, int64_t row_end) {
    int32_t* counts = tile_counts_.get();
    std::fill(counts + row_begin * n_tiles_x_, counts + row_end * n_tiles_x_, 0);
    // Differences first, so that a wide span costs as much as a narrow one.
    for (int64_t id = 0; id < n_; ++id) {
      const TouchedTiles& tiles = touched_[id];
      const int begin = std::max<int>(tiles.rows.begin, static_cast<int>(row_begin));
      const int end = std::min<int>(tiles.rows.end, static_cast<int>(row_end));
      for (int row = begin; row < end; ++row) {
        const Range columns = tiles.columns[row - tiles.rows.begin];
        if (columns.empty()) continue;
        ++counts[int64_t{row} * n_tiles_x_ + columns.begin];
        if (columns.end < n_tiles_x_) --counts[int64_t{row} * n_tiles_x_ + columns.end];
      }
    }
    for (int64_t row = row_begin; row < row_end; ++row) {
      int32_t* c = counts + row * n_tiles_x_;
      std::partial_sum(c, c + n_tiles_x_, c);
    }
  };
  parallel_for(pool, n_tiles_y_, row_grain(pool, n_tiles_y_), count_rows);
}

template <typename T>
int64_t TileIndex<T>::n_instances() const {
  return std::accumulate(tile_counts_.get(), tile_counts_.get() + n_tiles(), int64_t{0});
}

template <typename T>
std::vector<int64_t> TileIndex<T>::groups(int64_t bytes_per_instance) const {
  const int64_t max_instances = kMaxListBytes / bytes_per_instance;
  std::vector<int64_t> bounds{0};
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
  begin_ = make_array<int64_t>(tile_end - tile_begin + 1);
  begin_[0] = 0;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    begin_[tile + 1 - first_] = begin_[tile - first_] + index.tile_counts()[tile];
  }
  n_instances_ = begin_[tile_end - tile_begin];
  ids_ = make_array<int32_t>(n_instances_);
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
  slots_ = make_array<uint32_t>(n_instances_);
  slot_begin_ = make_array<int64_t>(index.n_splats() + 1);
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

template <typename T>
void TileLists<T>::emit(ThreadPool& pool, const TileIndex<T>& index) {
  const int64_t n_rows = row_end_ - row_begin_;
  const int64_t n_drawn = static_cast<int64_t>(index.drawn_.size());
  std::vector<int64_t> cursor(begin_.get(), begin_.get() + (last_ - first_));
  parallel_for(pool, n_rows, row_grain(pool, n_rows), [&](int64_t, int64_t begin, int64_t end) {
    const int band_begin = row_begin_ + static_cast<int>(begin);
    const int band_end = row_begin_ + static_cast<int>(end);
    for (int64_t rank = 0; rank < n_drawn; ++rank) {
      if (rank + kPrefetch < n_drawn) {
        __builtin_prefetch(&index.touched_[index.drawn_[rank + kPrefetch]]);
      }
      const int32_t id = index.drawn_[rank];
      const TouchedTiles& tiles = index.touched_[id];
      const Range rows = rows_in_group(tiles);
      if (rows.begin >= band_end || rows.end <= band_begin) continue;
      uint32_t slot = 0;
      if (slots_) slot = static_cast<uint32_t>(slot_begin_[id]);
      for (int row = rows.begin; row < std::min(rows.end, band_end); ++row) {
        const Range columns = columns_in_group(tiles, row);
        if (columns.empty()) continue;
        if (row < band_begin) {  // another band's instances, counted to number ours
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
  });
}

template <typename T>
void bin_forward(ThreadPool& pool, const BinForward<T>& args) {
  const SplatInputs<T>& in = args.in;
  const int64_t n_tiles = int64_t{tile_count(in.width)} * tile_count(in.height);
  for (int64_t b = 0; b < in.batch.count(); ++b) {
    for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
      const ImageSplats<T> splats(in, b, camera);
      int32_t* order = args.order.at(in.batch, b) + camera * in.n;
      depth_order(splats, in.n, order);
      if (!args.tile_counts.data) continue;
      const TileIndex<T> index(pool, in, splats, order, nullptr, 0);
      std::copy(index.tile_counts(), index.tile_counts() + n_tiles,
                args.tile_counts.at(in.batch, b) + camera * n_tiles);
    }
  }
}

#define JGD_INSTANTIATE(T)                                         \
  template class TileIndex<T>;                                     \
  template class TileLists<T>;                                     \
  template void bin_forward<T>(ThreadPool&, const BinForward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cpu
