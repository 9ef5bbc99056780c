// Sorts the splats of each image by depth and counts those of each tile.

#include "cpu/bin.h"

#include <algorithm>

#include "cpu/depth_sort.h"
#include "cpu/tile_lists.h"

namespace jgd::cpu {

template <typename T>
void bin_forward(ThreadPool& pool, const BinForward<T>& args) {
  const SplatInputs<T>& in = args.in;
  const int64_t n_tiles = int64_t{tile_count(in.width)} * tile_count(in.height);
  for (int64_t b = 0; b < in.batch.count(); ++b) {
    for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
      const ImageSplats<T> splats(in, b, camera);
      int32_t* order = args.order.at(in.batch, b) + camera * in.n;
      depth_order(pool, splats, in.n, order);
      if (!args.tile_counts.data) continue;
      const TileIndex<T> index(pool, in, splats, order, nullptr, 0);
      std::copy(index.tile_counts(), index.tile_counts() + n_tiles,
                args.tile_counts.at(in.batch, b) + camera * n_tiles);
    }
  }
}

template void bin_forward<float>(ThreadPool&, const BinForward<float>&);
template void bin_forward<double>(ThreadPool&, const BinForward<double>&);

}  // namespace jgd::cpu
