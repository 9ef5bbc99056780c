// Declares the kernels that shade a range of Gaussians, forward and backward.
#pragma once

#include <cstdint>

#include "math/sh.h"
#include "math/vec.h"

namespace jgd::cpu {

// One batch element of ShadeInputs.
template <typename T>
struct ShadeScene {
  const T* means = nullptr;
  const T* sh = nullptr;
  const int32_t* radii = nullptr;    // or null: all are visible
  const Vec3<T>* centers = nullptr;  // of the cameras, [C]
  int64_t n = 0;
  int64_t n_bases = 0;
  int64_t n_cameras = 0;
  ShConvention convention = ShConvention::k3dgs;
};

template <typename T>
struct ShadeSceneForward {
  ShadeScene<T> in;
  T* colors = nullptr;
};

template <typename T>
struct ShadeSceneBackward {
  ShadeScene<T> in;
  const T* v_colors = nullptr;
  T* v_means = nullptr;  // or null
  T* v_sh = nullptr;     // or null
};

// One kernel for each degree. They shade the Gaussians [begin, end) for all cameras.
template <typename T>
struct ShadeKernels {
  using Forward = void (*)(const ShadeSceneForward<T>&, int64_t begin, int64_t end);
  // Also adds to the gradients of the offsets mean - centre, summed over Gaussians, [C] or null.
  using Backward = void (*)(const ShadeSceneBackward<T>&, int64_t begin, int64_t end,
                            Vec3<double>* v_offsets);
  Forward forward[kMaxShDegree + 1];
  Backward backward[kMaxShDegree + 1];
};

}  // namespace jgd::cpu
