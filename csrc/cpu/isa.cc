// Chooses the blend kernels for this machine.

#include <cstdlib>
#include <cstring>

#include "cpu/blend_tile.h"

namespace jgd::cpu {

#define JGD_DECLARE(isa)                            \
  namespace isa {                                   \
  extern const BlendKernels<float> kKernelsFloat;   \
  extern const BlendKernels<double> kKernelsDouble; \
  }
JGD_DECLARE(baseline)
#ifdef JGD_X86
JGD_DECLARE(avx2)
JGD_DECLARE(avx512)
#endif
#undef JGD_DECLARE

namespace {

struct Isa {
  const char* name;
  bool supported;
  const BlendKernels<float>* kernels_float;
  const BlendKernels<double>* kernels_double;
};

// Best first; the last one runs everywhere.
Isa choose() {
  const Isa all[] = {
#ifdef JGD_X86
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"),
       &avx512::kKernelsFloat, &avx512::kKernelsDouble},
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
       &avx2::kKernelsFloat, &avx2::kKernelsDouble},
#endif
      {"baseline", true, &baseline::kKernelsFloat, &baseline::kKernelsDouble},
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
const BlendKernels<float>& blend_kernels<float>() {
  return *isa().kernels_float;
}

template <>
const BlendKernels<double>& blend_kernels<double>() {
  return *isa().kernels_double;
}

const char* isa_name() { return isa().name; }

}  // namespace jgd::cpu
