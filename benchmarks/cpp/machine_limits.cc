// Measures the two limits of a machine: multiply-adds per second, and bytes per second to and from
// memory.

#include <cstdint>

#include "cpu/simd/vector.h"

namespace {

// Independent chains: enough to hide the latency of two multiply-add pipes, few enough for 16
// registers.
constexpr int kChains = 10;

}  // namespace

extern "C" {

// Returns the number of floating-point operations, two for each multiply-add. The sums go to
// `value`, so that the compiler cannot leave them out.
int64_t multiply_adds(int64_t n, float factor, float summand, float* value) {
  using namespace jgd::cpu::JGD_ISA;
  using V = Simd<float>::V;
  V chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = splat(float(i));
  for (int64_t k = 0; k < n; ++k) {
    for (V& chain : chains) chain = fma(chain, splat(factor), splat(summand));
  }
  for (int i = 0; i < kChains; ++i) value[i] = chains[i][0];
  return 2 * n * kChains * Simd<float>::kLanes;
}

// The triad of STREAM.
void triad(double* a, const double* b, const double* c, double factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) a[i] = b[i] + factor * c[i];
}

}  // extern "C"
