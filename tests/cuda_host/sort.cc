// Implements csrc/cuda/sort.h with the standard library.
//
// CUB does not say in which of the two arrays the result is: here that is random. The other one
// holds garbage afterwards.

#include "cuda/sort.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "machine.h"

namespace jgd::cuda {

template <typename Key>
void sort_pairs(Context& context, DoubleArray<Key>& keys, DoubleArray<uint32_t>& values, int64_t n,
                int n_bits, const Temporary& temporary) {
  if (n == 0 || context.failed()) return;
  if (temporary.bytes < sort_temporary_bytes(n)) return context.check("sort: too little memory");
  if (n_bits < 1 || n_bits > static_cast<int>(8 * sizeof(Key))) {
    return context.check("sort: bad number of bits");
  }
  const Key mask = static_cast<Key>(~Key{0}) >> (8 * sizeof(Key) - n_bits);
  std::vector<int64_t> from(n);
  std::iota(from.begin(), from.end(), int64_t{0});
  std::stable_sort(from.begin(), from.end(), [&](int64_t a, int64_t b) {
    return (keys.current[a] & mask) < (keys.current[b] & mask);
  });
  for (int64_t i = 0; i < n; ++i) {
    keys.other[i] = keys.current[from[i]];
    values.other[i] = values.current[from[i]];
  }
  if (host::random_bits("sort") % 2 == 0) {
    std::copy_n(keys.other, n, keys.current);
    std::copy_n(values.other, n, values.current);
  } else {
    std::swap(keys.current, keys.other);
    std::swap(values.current, values.other);
  }
  std::memset(keys.other, 0xff, n * sizeof(Key));
  std::memset(values.other, 0xff, n * sizeof(uint32_t));
  std::memset(temporary.data, 0xff, temporary.bytes);
}

void inclusive_sum(Context& context, int64_t* data, int64_t n, const Temporary& temporary) {
  if (n == 0 || context.failed()) return;
  if (temporary.bytes < sort_temporary_bytes(n)) return context.check("scan: too little memory");
  std::partial_sum(data, data + n, data);
  std::memset(temporary.data, 0xff, temporary.bytes);
}

template void sort_pairs<uint32_t>(Context&, DoubleArray<uint32_t>&, DoubleArray<uint32_t>&,
                                   int64_t, int, const Temporary&);
template void sort_pairs<uint64_t>(Context&, DoubleArray<uint64_t>&, DoubleArray<uint32_t>&,
                                   int64_t, int, const Temporary&);

}  // namespace jgd::cuda
