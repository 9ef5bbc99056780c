// Declares the kernel that sums the moments of a range of splats and makes gradients of them.
#pragma once

#include <cstdint>

#include "math/blend.h"

namespace jgd::cpu {

// Numbers behind the last slot that are read but not used.
inline constexpr int64_t kSlotPadding = 16;

// The gradients of one image, see BlendBackward; gradients that are not wanted are null.
template <typename T>
struct SplatGradientSums {
  const T* conics;
  const T* opacities;
  const T* moments;           // [slot][kMoments + D], followed by kSlotPadding numbers
  const int64_t* slot_begin;  // [N + 1]: the slots of a splat are consecutive
  int64_t n_channels;         // D
  bool add;                   // to the gradients of an earlier group of tiles
  bool add_colors;            // to the gradients of an earlier group or camera
  T* v_means2d;
  T* v_means2d_abs;
  T* v_depths;
  T* v_conics;
  T* v_opacities;
  T* v_colors;
};

template <typename T>
struct SplatGradientKernels {
  // Writes the gradients of the splats [begin, end), or adds to them.
  void (*sum)(const SplatGradientSums<T>&, int64_t begin, int64_t end);
};

}  // namespace jgd::cpu
