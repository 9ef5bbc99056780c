// Colours of a range of Gaussians: the inner loops, compiled once per instruction set.
#pragma once

#include <cstdint>

#include "math/sh.h"
#include "math/vec.h"

namespace jgd::cpu {

// One batch element of ShadeInputs.
template <typename T>
struct ShadeScene {
  const T* means;
  const T* sh;
  const int32_t* radii;    // or null
  const Vec3<T>* centers;  // of the cameras, [C]
  int64_t n;
  int64_t n_bases;
  int64_t n_cameras;
  ShConvention convention;
};

template <typename T>
struct ShadeSceneForward {
  ShadeScene<T> in;
  T* colors;
};

template <typename T>
struct ShadeSceneBackward {
  ShadeScene<T> in;
  const T* v_colors;
  T* v_means;  // or null
  T* v_sh;     // or null
};

// By degree, for the Gaussians [begin, end) and all cameras.
template <typename T>
struct ShadeKernels {
  using Forward = void (*)(const ShadeSceneForward<T>&, int64_t begin, int64_t end);
  // Adds to the gradients of the offsets mean - centre summed over Gaussians, [C] or null.
  using Backward = void (*)(const ShadeSceneBackward<T>&, int64_t begin, int64_t end,
                            Vec3<double>* v_offsets);
  Forward forward[kMaxShDegree + 1];
  Backward backward[kMaxShDegree + 1];
};

}  // namespace jgd::cpu
