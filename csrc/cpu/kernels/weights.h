// Declares the kernel that finds the weights of the splats in one tile.
#pragma once

#include <cstdint>

#include "cpu/kernels/blend.h"

namespace jgd::cpu {

// What one tile adds to the statistics of a splat.
template <typename T>
struct SplatWeights {
  T largest;
  T total;
  int32_t n_pixels;
};

template <typename T>
struct TileWeights {
  Tile<T> tile;  // without colours, background and scratch memory
  int64_t k;
  int32_t* ids;  // [H, W, k] of one camera, see WeightsForward; both null if they are not wanted
  T* weights;
  const uint32_t* slots;   // of the splats of the list
  SplatWeights<T>* parts;  // by slot; both null if they are not wanted
};

template <typename T>
struct WeightsKernels {
  void (*tile)(const TileWeights<T>&);
};

}  // namespace jgd::cpu
