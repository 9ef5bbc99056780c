// From the moments of the instances of splats to their gradients: the inner loops, compiled once
// per instruction set.
#pragma once

#include <cstdint>

#include "math/blend.h"

namespace jgd::cpu {

// How far behind the last slot is read.
inline constexpr int64_t kSlotPadding = 16;

// The gradients of one image, see BlendBackward; those that nobody asked for are null.
template <typename T>
struct SplatGradientSums {
  const T* conics;
  const T* opacities;
  const T* moments;           // [slot][kMoments + D], and kSlotPadding numbers that are not used
  const int64_t* slot_begin;  // [N + 1]: the slots of a splat are consecutive
  int64_t n_channels;         // D
  bool add;                   // to what another group of tiles left
  bool add_colors;            // to what another group or camera left
  T* v_means2d;
  T* v_means2d_abs;
  T* v_depths;
  T* v_conics;
  T* v_opacities;
  T* v_colors;
};

template <typename T>
struct SplatGradientKernels {
  // Splats [begin, end).
  void (*sum)(const SplatGradientSums<T>&, int64_t begin, int64_t end);
};

}  // namespace jgd::cpu
