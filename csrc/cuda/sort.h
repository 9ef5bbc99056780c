// Declares device-wide sort and scan. sort.cu uses CUB, tests/cuda_host the standard library.
#pragma once

#include <cstdint>

#include "cuda/context.h"
#include "cuda/workspace.h"

namespace jgd::cuda {

// The number of bits of keys from 0 to `largest`.
inline int key_bits(int64_t largest) {
  int bits = 0;
  for (; largest > 0; largest >>= 1) ++bits;
  return bits;
}

// Sorts by the lowest `n_bits` bits of the keys, uint32_t or uint64_t, and is stable. `temporary`
// is for n items or more.
template <typename Key>
void sort_pairs(Context& context, DoubleArray<Key>& keys, DoubleArray<uint32_t>& values, int64_t n,
                int n_bits, const Temporary& temporary);

// data[i] = data[0] + ... + data[i], in place.
void inclusive_sum(Context& context, int64_t* data, int64_t n, const Temporary& temporary);

}  // namespace jgd::cuda
