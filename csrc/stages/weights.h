// Declares the arguments of the weights of a view: which Gaussian takes how much of which pixel. It
// is blending with nothing to blend.
#pragma once

#include <cstdint>

#include "stages/blend.h"
#include "stages/workspace.h"

namespace jgd {

template <typename T>
struct WeightsForward {
  BlendInputs<T> in;  // without colours and background: D = 0
  int64_t k = 0;  // Gaussians of a pixel; 0 without ids
  // By weight, the largest first and the nearer of two equal ones; -1 and 0 behind the last. Both
  // or neither.
  Batched<int32_t> ids;  // [C, H, W, k] or absent
  Batched<T> weights;  // [C, H, W, k] or absent
  // Over the pixels in which a Gaussian is drawn. All or none.
  Batched<T> largest;  // [C, N] or absent
  Batched<T> total;  // [C, N] or absent
  Batched<int32_t> n_pixels;  // [C, N] or absent
  Workspace workspace;  // used on the GPU
};

}  // namespace jgd
