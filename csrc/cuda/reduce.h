// Sums several values at once over the lanes of a warp.
#pragma once

#include "cuda/device.h"
#include "math/hd.h"

namespace jgd::cuda {

// Reduces 2 kHalf values to 1. In each step pairs of lanes share their sums: each lane keeps half
// of the values and gives the other half away.
template <int kHalf, int kN, typename T>
__device__ void share_values(T (&values)[kN]) {
  if constexpr (kHalf >= 1) {
    constexpr int kMask = kHalf * (kWarpSize / kN);
    const bool upper = (lane() & kMask) != 0;
    JGD_UNROLL
    for (int i = 0; i < kHalf; ++i) {
      const T kept = upper ? values[kHalf + i] : values[i];
      const T given = upper ? values[i] : values[kHalf + i];
      values[i] = kept + shuffle_xor(given, kMask);
    }
    share_values<kHalf / 2>(values);  // a loop over kHalf would not be unrolled
  }
}

// Sums each of the values over the lanes: lane L returns the sum of value L / (32 / kN), so that
// with kN == 32 each lane has its own. kN is a power of two of at most 32. Called by all lanes;
// destroys the values.
//
// kN - 1 + log2(32 / kN) shuffles, where kN separate sums would take 5 kN. The order of a sum is a
// fixed tree.
template <int kN, typename T>
__device__ T reduce_values(T (&values)[kN]) {
  static_assert(kN >= 1 && kN <= kWarpSize && (kN & (kN - 1)) == 0);
  share_values<kN / 2>(values);
  T sum = values[0];
  JGD_UNROLL
  for (int mask = kWarpSize / (2 * kN); mask >= 1; mask /= 2) sum += shuffle_xor(sum, mask);
  return sum;
}

}  // namespace jgd::cuda
