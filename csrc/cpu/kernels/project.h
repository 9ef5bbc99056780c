// Declares the kernels that project a range of Gaussians, forward and backward.
#pragma once

#include <cstdint>

#include "cpu/camera_gradient.h"
#include "math/projection.h"

namespace jgd::cpu {

// One batch element of ProjectInputs.
template <typename T>
struct ProjectScene {
  const T* means = nullptr;
  const T* quats = nullptr;   // null with covars
  const T* scales = nullptr;  // null with covars
  const T* covars = nullptr;  // null with quats and scales
  const T* opacities = nullptr;
  const Pose<T>* poses = nullptr;        // [C]
  const Pinhole<T>* pinholes = nullptr;  // [C]
  int64_t n = 0;
  int64_t n_cameras = 0;
  ProjectionSettings<T> settings{};
};

template <typename T>
struct ProjectSceneForward {
  ProjectScene<T> in;
  T* means2d = nullptr;  // outputs of ProjectForward
  T* depths = nullptr;
  T* conics = nullptr;
  T* opacities = nullptr;
  int32_t* radii = nullptr;
};

template <typename T>
struct ProjectSceneBackward {
  ProjectScene<T> in;
  const int32_t* radii = nullptr;
  const T* v_means2d = nullptr;  // cotangents, or null
  const T* v_depths = nullptr;
  const T* v_conics = nullptr;
  const T* v_splat_opacities = nullptr;
  T* v_means = nullptr;  // outputs of ProjectBackward, or null
  T* v_quats = nullptr;
  T* v_scales = nullptr;
  T* v_covars = nullptr;
  T* v_opacities = nullptr;
};

template <typename T>
struct ProjectKernels {
  // Projects the Gaussians [begin, end) for all cameras.
  void (*forward)(const ProjectSceneForward<T>&, int64_t begin, int64_t end);
  // Also adds to the gradients of the cameras, [C] or null.
  void (*backward)(const ProjectSceneBackward<T>&, int64_t begin, int64_t end,
                   CameraGradient* cameras);
};

}  // namespace jgd::cpu
