// The inner loops that exist once per instruction set, and the choice between them.
#pragma once

#include "cpu/kernels/touched_tiles.h"
#include "cpu/kernels/blend.h"
#include "cpu/kernels/project.h"
#include "cpu/kernels/shade.h"
#include "cpu/kernels/splat_gradient.h"

namespace jgd::cpu {

template <typename T>
struct Kernels {
  const ProjectKernels<T>* project;
  const ShadeKernels<T>* shade;
  const BinKernels<T>* bin;
  const BlendForwardKernels<T>* blend_forward;
  const BlendBackwardKernels<T>* blend_backward;
  const SplatGradientKernels<T>* splat_gradient;
};

// Those for the best instruction set of this machine, or the one that the environment variable
// JGD_CPU_ISA names (baseline, avx2, avx512) if the machine has it. Decided once.
template <typename T>
const Kernels<T>& kernels();

// Its name, for reports.
const char* isa_name();

}  // namespace jgd::cpu
