// Declares the kernel that finds the tiles that each splat of an image touches.
#pragma once

#include <cstdint>

#include "math/blend.h"
#include "math/tile.h"
#include "stages/image_splats.h"

namespace jgd::cpu {

// The fields of a splat that blending a tile reads: half a cache line in float32.
template <typename T>
struct TileSplat {
  Vec2<T> center;  // pixels
  Exponent<T> exponent;
  T depth;
  T vertex;  // -1 / (2 exponent.xx): along a row the exponent is largest at vertex exponent.xy dy
};

// The tiles that a splat touches: a range of tile rows and, for each of them, one of columns.
struct TouchedTiles {
  Range rows;
  const Range* columns;
};

// Splats whose footprints are kept between the two steps.
inline constexpr int kPieceSplats = 1024;
inline constexpr int kFootprintNumbers = 9;

template <typename T>
struct IndexPiece {
  ImageSplats<T> splats;
  const T* colors = nullptr;  // [N, D], or null: colours do not cull
  int64_t n_channels = 0;  // D
  int n_tiles_x = 0;
  int n_tiles_y = 0;
  TileSplat<T>* tile_splats = nullptr;  // [N], output
  TouchedTiles* touched = nullptr;  // [N], output
  T* scratch = nullptr;  // kFootprintNumbers * kPieceSplats numbers, aligned to 64 bytes
};

template <typename T>
struct TouchedTilesKernels {
  // Writes the tile splats of [begin, end), at most kPieceSplats, and the rows of tiles that they
  // touch: none if they are not drawn.
  void (*rows)(const IndexPiece<T>&, int64_t begin, int64_t end);
  // The second step, for the same splats: writes the columns of all their rows of tiles to
  // `columns`, one splat after the other.
  void (*columns)(const IndexPiece<T>&, int64_t begin, int64_t end, Range* columns);
};

}  // namespace jgd::cpu
