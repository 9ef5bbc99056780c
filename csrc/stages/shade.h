// Declares the arguments of stage 2, shade: spherical-harmonics coefficients to the RGB colours
// that each camera sees.
#pragma once

#include <cstdint>

#include "math/sh.h"
#include "stages/batch.h"
#include "stages/workspace.h"

namespace jgd {

template <typename T>
struct ShadeInputs {
  Batched<const T> means;    // [N, 3] world
  Batched<const T> sh;       // [N, B, 3]
  Batched<const T> viewmat;  // [C, 4, 4] world to camera
  Batched<const int32_t> radii;  // [C, N] or absent; where it is 0 (culled) the colour is 0
  BatchShape batch;
  int64_t n = 0;
  int64_t n_bases = 0;  // B, at least (degree + 1)^2
  int64_t n_cameras = 0;
  int degree = 0;
  ShConvention convention = ShConvention::k3dgs;
};

template <typename T>
struct ShadeForward {
  ShadeInputs<T> in;
  Batched<T> colors;  // [C, N, 3]; NaN where a coefficient in use is not finite
};

template <typename T>
struct ShadeBackward {
  ShadeInputs<T> in;
  Batched<const T> v_colors;  // [C, N, 3]
  Batched<T> v_means;         // [N, 3] or absent
  Batched<T> v_sh;            // [N, B, 3] or absent; 0 above the degree in use
  Batched<T> v_viewmat;       // [C, 4, 4] or absent
  Workspace workspace;        // used on the GPU
};

}  // namespace jgd
