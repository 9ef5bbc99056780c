// Declares the kernels that blend one tile, forward and backward.
#pragma once

#include <cstdint>

#include "cpu/kernels/touched_tiles.h"
#include "math/constants.h"

namespace jgd::cpu {

// A tile and its list. Pixels lie in the arrays of the image, row by row.
template <typename T>
struct Tile {
  const TileSplat<T>* splats;    // by index of the Gaussian
  const int32_t* ids;            // the list: indices of the Gaussians, by depth
  int64_t n;                     // its length
  const T* colors;               // [N, D]
  const T* background;           // [D]
  int64_t n_channels;            // D
  int x;                         // first pixel of the tile
  int y;
  int width;                     // of the image
  int height;
  T* scratch;                    // tile_scratch(D) numbers, aligned to 64 bytes
};

template <typename T>
struct TileForward {
  Tile<T> tile;
  T* image;  // the outputs of one camera, see BlendForward
  T* depth;
  T* weight;
  T* transmittance;  // both null if no backward pass follows
  int32_t* last;
  int32_t* median;  // null if it is not wanted
};

template <typename T>
struct TileBackward {
  Tile<T> tile;
  const T* depth;  // the arrays of one camera, see BlendBackward; cotangents may be null
  const T* weight;
  const T* transmittance;
  const int32_t* last;
  const T* v_image;
  const T* v_depth;
  const T* v_weight;
  const uint32_t* slots;  // of the splats of the list
  T* moments;             // [slot][kMoments + D], see Moment
  bool absolute;          // fill kMomentAbsX and kMomentAbsY
  T* v_background;        // [D] the part of this tile, or null
};

template <typename T>
struct BlendForwardKernels {
  void (*tile)(const TileForward<T>&);
};

template <typename T>
struct BlendBackwardKernels {
  void (*tile)(const TileBackward<T>&);
};

inline int64_t tile_scratch(int64_t n_channels) {
  return n_channels * (kTileSize * kTileSize + kTileSize);
}

}  // namespace jgd::cpu
