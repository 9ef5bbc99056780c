// Walks a warp through the tiles that its splats touch. Counting, listing and publishing all use
// it, so they can never disagree about a tile.
#pragma once

#include "cuda/device.h"
#include "math/tile.h"

namespace jgd::cuda {

template <typename T>
__device__ Footprint<T> shuffle_footprint(const Footprint<T>& f, int source) {
  return {{shuffle(f.center.x, source), shuffle(f.center.y, source)},
          {shuffle(f.conic.xx, source), shuffle(f.conic.xy, source), shuffle(f.conic.yy, source)},
          shuffle(f.det, source),
          shuffle(f.bound, source),
          {shuffle(f.extent.x, source), shuffle(f.extent.y, source)},
          shuffle(static_cast<int>(f.rectangle), source) != 0};
}

// Calls visit(owner, row, columns, first) for each tile row of the splats of a warp, one splat for
// each lane (none where `present` is false), and returns the number of tiles of the lane's own
// splat. `owner` is the lane of the splat, `first` the number of its tiles in earlier rows.
//
// A lane walks through a small splat alone; the lanes share the rows of a large one, so that one
// splat that covers the image does not keep its warp waiting.
template <typename T, typename Visit>
__device__ int64_t for_each_span(const Footprint<T>& footprint, bool present, int n_tiles_x,
                                 int n_tiles_y, const Visit& visit) {
  constexpr int kLargePixels = 1024;  // half the width times the number of rows
  const Range rows = present ? tile_rows(footprint, n_tiles_y) : Range{0, 0};
  const int n_rows = rows.empty() ? 0 : rows.end - rows.begin;
  const bool large = n_rows > 0 && !(T(n_rows) * footprint.extent.x < T(kLargePixels));
  int64_t n_tiles = 0;
  for (int row = rows.begin; !large && row < rows.end; ++row) {
    const Range columns = tile_columns(footprint, row, n_tiles_x);
    if (columns.empty()) continue;
    visit(lane(), row, columns, n_tiles);
    n_tiles += columns.end - columns.begin;
  }
  for (unsigned pending = ballot(large); pending != 0; pending &= pending - 1) {
    const int owner = count_bits((pending & (0u - pending)) - 1u);  // the lowest set bit
    const Footprint<T> f = shuffle_footprint(footprint, owner);
    const int begin = shuffle(rows.begin, owner);
    const int end = shuffle(rows.end, owner);
    int64_t n_before = 0;
    for (int first_row = begin; first_row < end; first_row += kWarpSize) {
      const int row = first_row + lane();
      const Range columns = row < end ? tile_columns(f, row, n_tiles_x) : Range{0, 0};
      const int length = columns.empty() ? 0 : columns.end - columns.begin;
      int64_t sum = length;  // over this and the lower lanes
      for (int distance = 1; distance < kWarpSize; distance *= 2) {
        const int64_t below = shuffle_up(sum, distance);
        if (lane() >= distance) sum += below;
      }
      if (length > 0) visit(owner, row, columns, n_before + sum - length);
      n_before += shuffle(sum, kWarpSize - 1);
    }
    if (lane() == owner) n_tiles = n_before;
  }
  return n_tiles;
}

}  // namespace jgd::cuda
