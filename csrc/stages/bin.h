// Declares the arguments of stage 3, bin: splats to their depth order and the length of each tile's
// list.
#pragma once

#include <cstdint>

#include "stages/batch.h"
#include "stages/workspace.h"

namespace jgd {

// The splats of C cameras as the project stage wrote them, read by bin and blend.
template <typename T>
struct SplatInputs {
  Batched<const T> means2d;  // [C, N, 2] pixels
  Batched<const T> depths;  // [C, N]
  Batched<const T> conics;  // [C, N, 3]
  Batched<const T> opacities;  // [C, N]
  Batched<const int32_t> radii;  // [C, N], 0 = not drawn
  BatchShape batch;
  int64_t n = 0;
  int64_t n_cameras = 0;
  int width = 0;
  int height = 0;
  bool three_sigma = false;  // footprint rule, see math/tile.h
};

template <typename T>
struct BinForward {
  SplatInputs<T> in;
  Batched<int32_t> order;  // [C, N] a permutation: by depth, ties by index, culled ones last
  Batched<int32_t> tile_counts;  // [C, n_tiles_y, n_tiles_x], or absent
  Workspace workspace;  // used on the GPU
};

}  // namespace jgd
