// Chooses the instruction set for this machine when the first kernel is called.

#include "cpu/dispatch.h"

#include <cstdlib>
#include <cstring>

#ifndef JGD_ISA
#define JGD_ISA baseline
#endif

namespace jgd::cpu {

// Declares the tables that the sources of one instruction set define.
#define JGD_DECLARE_TABLE(Type, name)        \
  extern const Type<float> k##name##Float;   \
  extern const Type<double> k##name##Double;
#define JGD_DECLARE(isa)                                 \
  namespace isa {                                        \
  JGD_DECLARE_TABLE(ProjectKernels, Project)             \
  JGD_DECLARE_TABLE(ShadeKernels, Shade)                 \
  JGD_DECLARE_TABLE(TouchedTilesKernels, TouchedTiles)   \
  JGD_DECLARE_TABLE(BlendForwardKernels, BlendForward)   \
  JGD_DECLARE_TABLE(BlendBackwardKernels, BlendBackward) \
  JGD_DECLARE_TABLE(SplatGradientKernels, SplatGradient) \
  JGD_DECLARE_TABLE(WeightsKernels, Weights)             \
  }
#define JGD_TABLES(isa, T)                                                      \
  {                                                                             \
      &isa::kProject##T,      &isa::kShade##T,         &isa::kTouchedTiles##T,  \
      &isa::kBlendForward##T, &isa::kBlendBackward##T, &isa::kSplatGradient##T, \
      &isa::kWeights##T}
#define JGD_KERNELS(isa) JGD_TABLES(isa, Float), JGD_TABLES(isa, Double)

JGD_DECLARE(JGD_ISA)
#ifdef JGD_X86
JGD_DECLARE(avx2)
JGD_DECLARE(avx512)
#endif

namespace {

struct Isa {
  const char* name;
  bool supported;
  Kernels<float> kernels_float;
  Kernels<double> kernels_double;
};

// Best first; the last one runs everywhere.
Isa choose() {
  const Isa all[] = {
#ifdef JGD_X86
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("fma"),
       JGD_KERNELS(avx512)},
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), JGD_KERNELS(avx2)},
#endif
      {"baseline", true, JGD_KERNELS(JGD_ISA)},
  };
  if (const char* wanted = std::getenv("JGD_CPU_ISA")) {
    for (const Isa& isa : all) {
      if (isa.supported && std::strcmp(isa.name, wanted) == 0) return isa;
    }
  }
  const Isa* best = all;
  while (!best->supported) ++best;  // ends at the last one
  return *best;
}

const Isa& isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return isa().kernels_float;
}

template <>
const Kernels<double>& kernels<double>() {
  return isa().kernels_double;
}

const char* isa_name() { return isa().name; }

}  // namespace jgd::cpu
