// Sorts and scans with CUB.

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "cuda/sort.h"

namespace jgd::cuda {
namespace {

// CUB tells the memory that it needs only for the GPU of this machine; the reserved memory must be
// enough for it.
bool enough(Context& context, size_t needed, int64_t given) {
  return context.require(static_cast<int64_t>(needed) <= given,
                         "CUB needs more temporary memory than was reserved");
}

}  // namespace

template <typename Key>
void sort_pairs(Context& context, DoubleArray<Key>& keys, DoubleArray<uint32_t>& values, int64_t n,
                int n_bits, const Temporary& temporary) {
  if (n == 0 || context.failed()) return;
  cub::DoubleBuffer<Key> key_buffer(keys.current, keys.other);
  cub::DoubleBuffer<uint32_t> value_buffer(values.current, values.other);
  size_t needed = 0;
  context.check(cub::DeviceRadixSort::SortPairs(nullptr, needed, key_buffer, value_buffer, n, 0,
                                                n_bits, context.stream),
                "sort");
  if (!enough(context, needed, temporary.bytes)) return;
  context.check(cub::DeviceRadixSort::SortPairs(temporary.data, needed, key_buffer, value_buffer, n,
                                                0, n_bits, context.stream),
                "sort");
  keys = {key_buffer.Current(), key_buffer.Alternate()};
  values = {value_buffer.Current(), value_buffer.Alternate()};
}

void inclusive_sum(Context& context, int64_t* data, int64_t n, const Temporary& temporary) {
  if (n == 0 || context.failed()) return;
  size_t needed = 0;
  context.check(cub::DeviceScan::InclusiveSum(nullptr, needed, data, data, n, context.stream),
                "scan");
  if (!enough(context, needed, temporary.bytes)) return;
  context.check(
      cub::DeviceScan::InclusiveSum(temporary.data, needed, data, data, n, context.stream), "scan");
}

template void sort_pairs<uint32_t>(Context&, DoubleArray<uint32_t>&, DoubleArray<uint32_t>&,
                                   int64_t, int, const Temporary&);
template void sort_pairs<uint64_t>(Context&, DoubleArray<uint64_t>&, DoubleArray<uint32_t>&,
                                   int64_t, int, const Temporary&);

}  // namespace jgd::cuda
