// Declares the arguments of stage 4, blend: splats in depth order to image, depth and weight.
#pragma once

#include <cstdint>

#include "math/hd.h"
#include "stages/bin.h"

namespace jgd {

template <typename T>
struct BlendInputs {
  SplatInputs<T> splats;
  Batched<const int32_t> order;   // [C, N] of the bin stage
  Batched<const T> colors;        // [C or 1, N, D]
  Batched<const T> background;    // [C or 1, D]
  int64_t n_channels = 0;         // D
  int64_t capacity = 0;           // (splat, tile) pairs in the lists of one image, on the GPU
  bool shared_colors = false;     // one set of colours for all cameras
  bool shared_background = false;

  // [N, D] and [D] of one image.
  JGD_HD const T* colors_of(int64_t batch_index, int64_t camera) const {
    return colors.at(splats.batch, batch_index) +
           (shared_colors ? 0 : camera * splats.n * n_channels);
  }
  JGD_HD const T* background_of(int64_t batch_index, int64_t camera) const {
    return background.at(splats.batch, batch_index) + (shared_background ? 0 : camera * n_channels);
  }
};

template <typename T>
struct BlendForward {
  BlendInputs<T> in;
  Batched<T> image;          // [C, H, W, D]
  Batched<T> depth;          // [C, H, W] sum w z / sum w, 0 where nothing is hit
  Batched<T> weight;         // [C, H, W] sum w
  Batched<int32_t> median;   // [C, H, W] id of the first splat that halves T, or -1; or absent
  // Only for the backward pass; both absent if none follows.
  Batched<T> transmittance;  // [C, H, W] the light that reaches the background
  Batched<int32_t> last;  // [C, H, W] the place (GPU: depth rank) from which nothing is drawn
  // The number of (splat, tile) pairs, and of the pairs in the lists; at most the largest int.
  Batched<int32_t> n_isects;  // [C]
  Batched<int32_t> n_isects_listed;  // [C]
  Workspace workspace;  // used on the GPU
};

template <typename T>
struct BlendBackward {
  BlendInputs<T> in;
  Batched<const T> depth;  // [C, H, W] outputs of the forward pass
  Batched<const T> weight;
  Batched<const T> transmittance;
  Batched<const int32_t> last;
  Batched<const T> v_image;  // [C, H, W, D] or absent
  Batched<const T> v_depth;  // [C, H, W] or absent
  Batched<const T> v_weight;  // [C, H, W] or absent
  Batched<T> v_means2d;  // [C, N, 2]
  Batched<T> v_means2d_abs;  // [C, N, 2] sum of absolute per-pixel gradients, or absent
  Batched<T> v_depths;  // [C, N]
  Batched<T> v_conics;  // [C, N, 3]
  Batched<T> v_opacities;  // [C, N]
  Batched<T> v_colors;  // [C or 1, N, D], summed over cameras if shared, or absent
  Batched<T> v_background;  // [C or 1, D], likewise
  bool deterministic = false;  // the GPU gives the same bits on every run
  Workspace workspace;  // used on the GPU
};

}  // namespace jgd
