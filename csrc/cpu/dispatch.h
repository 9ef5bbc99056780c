// Declares the table of the kernels, the inner loops that are compiled once per instruction set.
#pragma once

#include "cpu/kernels/blend.h"
#include "cpu/kernels/project.h"
#include "cpu/kernels/shade.h"
#include "cpu/kernels/splat_gradient.h"
#include "cpu/kernels/touched_tiles.h"
#include "cpu/kernels/weights.h"

namespace jgd::cpu {

template <typename T>
struct Kernels {
  const ProjectKernels<T>* project;
  const ShadeKernels<T>* shade;
  const TouchedTilesKernels<T>* touched_tiles;
  const BlendForwardKernels<T>* blend_forward;
  const BlendBackwardKernels<T>* blend_backward;
  const SplatGradientKernels<T>* splat_gradient;
  const WeightsKernels<T>* weights;
};

// Returns the kernels for the best instruction set of this machine, or for the one that the
// environment variable JGD_CPU_ISA names (baseline, avx2, avx512) if the machine has it. The choice
// is made once.
template <typename T>
const Kernels<T>& kernels();

// The name of the chosen instruction set, for reports.
const char* isa_name();

}  // namespace jgd::cpu
