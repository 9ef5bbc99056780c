// Declares the tile lists of all images, built at the start of both directions of blend.
//
// Splats are listed in depth order as long as all their tiles fit into the capacity of the image;
// the first that does not fit ends the lists. Later splats are found by search (blend_walk.h), so
// the capacity decides the speed and never the result.
#pragma once

#include "cuda/context.h"
#include "cuda/workspace.h"
#include "stages/blend.h"

namespace jgd::cuda {

template <typename T>
struct TileLists {
  const TileSplat<T>* splats;  // [image, rank]
  const ImageLists* images;      // [image]
  const uint32_t* ranks;         // the lists one after the other, ascending in each
  const int64_t* tile_begin;     // [image * n_tiles + tile], with one entry more at the end
  int64_t n;                     // Gaussians
  int n_tiles_x;
  int n_tiles_y;

  JGD_HD int64_t n_tiles() const { return int64_t{n_tiles_x} * n_tiles_y; }
};

template <typename T>
CallSizes call_sizes(const BlendInputs<T>& in);

// Also writes the counts of BlendForward where they are not null.
template <typename T>
TileLists<T> build_tile_lists(Context& context, const BlendInputs<T>& in,
                              const TileListArrays<T>& arrays, int32_t* n_isects,
                              int32_t* n_isects_listed);

}  // namespace jgd::cuda
