// Declares the arguments of stage 1, project: 3D Gaussians of a scene to the 2D splats of C
// cameras.
#pragma once

#include <cstdint>

#include "math/projection.h"
#include "stages/batch.h"
#include "stages/workspace.h"

namespace jgd {

template <typename T>
struct ProjectInputs {
  Batched<const T> means;      // [N, 3] world
  Batched<const T> quats;      // [N, 4] wxyz; absent with covars
  Batched<const T> scales;     // [N, 3]; absent with covars
  Batched<const T> covars;     // [N, 6] xx xy xz yy yz zz; absent with quats and scales
  Batched<const T> opacities;  // [N]
  Batched<const T> viewmat;    // [C, 4, 4] world to camera
  Batched<const T> K;          // [C, 3, 3] pixels
  BatchShape batch;
  int64_t n = 0;
  int64_t n_cameras = 0;
  ProjectionSettings<T> settings;
};

template <typename T>
struct ProjectForward {
  ProjectInputs<T> in;
  Batched<T> means2d;      // [C, N, 2] pixels
  Batched<T> depths;       // [C, N] camera z
  Batched<T> conics;       // [C, N, 3] inverse of the 2D covariance: xx xy yy
  Batched<T> opacities;    // [C, N] after antialiasing compensation
  Batched<int32_t> radii;  // [C, N] pixels; 0 = culled, and all other outputs are 0 too
};

template <typename T>
struct ProjectBackward {
  ProjectInputs<T> in;
  Batched<const int32_t> radii;        // [C, N] of the forward pass
  Batched<const T> v_means2d;          // [C, N, 2] or absent
  Batched<const T> v_depths;           // [C, N] or absent
  Batched<const T> v_conics;           // [C, N, 3] or absent
  Batched<const T> v_splat_opacities;  // [C, N] or absent
  Batched<T> v_means;                  // [N, 3] or absent; summed over cameras in their order
  Batched<T> v_quats;                  // [N, 4] or absent
  Batched<T> v_scales;                 // [N, 3] or absent
  Batched<T> v_covars;                 // [N, 6] or absent
  Batched<T> v_opacities;              // [N] or absent
  Batched<T> v_viewmat;                // [C, 4, 4] or absent
  Batched<T> v_K;                      // [C, 3, 3] or absent
  Workspace workspace;                 // used on the GPU
};

}  // namespace jgd
