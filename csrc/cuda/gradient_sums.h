// Sums the gradients of all pixels: a sum for each moment and channel of each Gaussian of each
// image.
//
// By default these are float atomics, which are fast, but their order changes from run to run.
// Deterministic sums take the same walk twice. The first pass finds the largest term of each sum (a
// maximum does not depend on the order). The second adds the terms as integers in units derived
// from that maximum, so that no bit depends on the order either, nor on where the tile lists end.
#pragma once

#include <cstring>

#include "cuda/device.h"
#include "cuda/workspace.h"

namespace jgd::cuda {

enum class Pass { kAtomic, kMagnitude, kFixed };

template <typename T>
struct GradientSums {
  using Bits = typename GradientArrays<T>::Bits;
  T* moments;  // see GradientArrays; either this or the next two are used
  Bits* magnitude;
  int64_t* fixed;
  int64_t stride;  // kMoments + D
  int term_bits;  // a sum has fewer than 2^term_bits terms

  template <Pass kPass>
  __device__ void add(int64_t index, T term) const {
    if constexpr (kPass == Pass::kAtomic) atomic_add(moments + index, term);
    if constexpr (kPass == Pass::kMagnitude) atomic_max(magnitude + index, magnitude_of(term));
    if constexpr (kPass == Pass::kFixed) {
      const T largest = value_of(magnitude[index]);
      if (!std::isfinite(largest)) return;
      const double scaled = std::ldexp(static_cast<double>(term), shift(largest));
      atomic_add(fixed + index, static_cast<int64_t>(std::llrint(scaled)));
    }
  }

  __device__ T sum(int64_t index) const {
    if (fixed == nullptr) return moments[index];
    const T largest = value_of(magnitude[index]);
    if (!std::isfinite(largest)) return largest;  // NaN, or infinite terms of unknown sign
    return static_cast<T>(std::ldexp(static_cast<double>(fixed[index]), -shift(largest)));
  }

 private:
  // Positive floating-point numbers are ordered like their bits; NaN comes last.
  static __device__ Bits magnitude_of(T term) {
    const T value = std::fabs(term);
    Bits bits;
    memcpy(&bits, &value, sizeof(T));
    return bits;
  }
  static __device__ T value_of(Bits bits) {
    T value;
    memcpy(&value, &bits, sizeof(T));
    return value;
  }
  // The power of two that makes integers of the terms and keeps the sum below 2^62.
  __device__ int shift(T largest) const {
    int exponent = 0;
    std::frexp(largest, &exponent);
    return 62 - term_bits - exponent;
  }
};

}  // namespace jgd::cuda
