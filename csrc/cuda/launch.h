// Launches kernels and sets memory; nothing else in the backend does either.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/context.h"

namespace jgd::cuda {

inline int64_t n_blocks(int64_t n, int threads) { return (n + threads - 1) / threads; }

// Runs kernel(args...) in `blocks` blocks of `threads` threads with `shared_bytes` of dynamic
// shared memory (at most 48 KiB, so that no attribute has to be set). Nothing runs after an error,
// because a kernel relies on the results of earlier ones.
template <typename... Params, typename... Args>
void launch(Context& context, const char* name, void (*kernel)(Params...), int64_t blocks,
            int threads, int64_t shared_bytes, const Args&... args) {
  if (blocks == 0 || context.failed()) return;
  if (blocks > 2147483647) {
    context.check(cudaErrorInvalidConfiguration, name);
    return;
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, context.stream>>>(args...);
  context.check(cudaGetLastError(), name);
}

// Sets n values to the byte `value` repeated.
template <typename T>
void fill_bytes(Context& context, T* data, int value, int64_t n) {
  if (n == 0 || context.failed()) return;
  context.check(cudaMemsetAsync(data, value, n * sizeof(T), context.stream), "memset");
}

}  // namespace jgd::cuda
