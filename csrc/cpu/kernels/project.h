// Projection of a range of Gaussians: the inner loops, compiled once per instruction set.
#pragma once

#include <cstdint>

#include "cpu/camera_gradient.h"
#include "math/projection.h"

namespace jgd::cpu {

// One batch element of ProjectInputs.
template <typename T>
struct ProjectScene {
  const T* means;
  const T* quats;      // null with covars
  const T* scales;     // null with covars
  const T* covars;     // null with quats and scales
  const T* opacities;
  const Pose<T>* poses;        // [C]
  const Pinhole<T>* pinholes;  // [C]
  int64_t n;
  int64_t n_cameras;
  ProjectionSettings<T> settings;
};

template <typename T>
struct ProjectSceneForward {
  ProjectScene<T> in;
  T* means2d;  // outputs of ProjectForward
  T* depths;
  T* conics;
  T* opacities;
  int32_t* radii;
};

template <typename T>
struct ProjectSceneBackward {
  ProjectScene<T> in;
  const int32_t* radii;
  const T* v_means2d;  // cotangents, or null
  const T* v_depths;
  const T* v_conics;
  const T* v_splat_opacities;
  T* v_means;  // outputs of ProjectBackward, or null
  T* v_quats;
  T* v_scales;
  T* v_covars;
  T* v_opacities;
};

template <typename T>
struct ProjectKernels {
  // Gaussians [begin, end), for all cameras.
  void (*forward)(const ProjectSceneForward<T>&, int64_t begin, int64_t end);
  // Adds to the gradients of the cameras, [C] or null.
  void (*backward)(const ProjectSceneBackward<T>&, int64_t begin, int64_t end,
                   CameraGradient* cameras);
};

}  // namespace jgd::cpu
