// The splats of a piece of the index and the tiles they touch: the inner loops, compiled once per
// instruction set.
#pragma once

#include <cstdint>

#include "math/blend.h"
#include "math/tile.h"
#include "stages/image_splats.h"

namespace jgd::cpu {

// What the blend loop reads of a splat: half a cache line in float32.
template <typename T>
struct PackedSplat {
  Vec2<T> center;  // pixels
  Exponent<T> exponent;
  T depth;
  T vertex;  // -1 / (2 exponent.xx): along a row the exponent is largest at vertex exponent.xy dy
};

// The tiles that a splat touches: a row of tiles each, and the columns in every one of them.
struct TouchedTiles {
  Range rows;
  const Range* columns;
};

// Splats whose footprints are kept between the two steps.
inline constexpr int kPieceSplats = 1024;
inline constexpr int kFootprintNumbers = 9;

template <typename T>
struct BinPiece {
  ImageSplats<T> splats;
  const T* colors;  // [N, D] or null
  int64_t n_channels;
  int n_tiles_x;
  int n_tiles_y;
  PackedSplat<T>* packed;
  TouchedTiles* touched;
  T* scratch;  // kFootprintNumbers * kPieceSplats numbers, aligned to 64 bytes
};

template <typename T>
struct BinKernels {
  // Packs the splats [begin, end), at most kPieceSplats, and writes which rows of tiles they touch:
  // none if they are not drawn.
  void (*rows)(const BinPiece<T>&, int64_t begin, int64_t end);
  // For the same splats, next: writes the columns of each of their rows of tiles.
  void (*columns)(const BinPiece<T>&, int64_t begin, int64_t end, Range* columns);
};

}  // namespace jgd::cpu
