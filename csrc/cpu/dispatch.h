// The inner loops that exist once per instruction set, and the choice between them.
#pragma once

#include "cpu/bin_pack.h"
#include "cpu/blend_tile.h"
#include "cpu/project_pack.h"
#include "cpu/shade_pack.h"
#include "cpu/splat_gradient_pack.h"

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
