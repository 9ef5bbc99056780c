// Searches sorted arrays.
#pragma once

#include <cstdint>

#include "cuda/device.h"

namespace jgd::cuda {

// The first i in [0, n) with values[i] >= bound, or n.
template <typename T>
__device__ int64_t lower_bound(const T* values, int64_t n, T bound) {
  int64_t begin = 0;
  while (n > 0) {
    const int64_t half = n / 2;
    if (values[begin + half] < bound) {
      begin += half + 1;
      n -= half + 1;
    } else {
      n = half;
    }
  }
  return begin;
}

}  // namespace jgd::cuda
