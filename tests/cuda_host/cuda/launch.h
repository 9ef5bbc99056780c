// Replaces csrc/cuda/launch.h: runs the kernel at once.
#pragma once

#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "cuda/context.h"
#include "machine.h"

namespace jgd::cuda {

inline int64_t n_blocks(int64_t n, int threads) { return (n + threads - 1) / threads; }

template <typename... Params, typename... Args>
void launch(Context& context, const char* name, void (*kernel)(Params...), int64_t blocks,
            int threads, int64_t shared_bytes, const Args&... args) {
  // CUDA copies the parameters to the device.
  static_assert((std::is_trivially_copyable_v<Params> && ...));
  static_assert((!std::is_reference_v<Params> && ...));
  static_assert((sizeof(Params) + ... + 0) <= 4000, "CUDA allows 4 KiB of parameters");
  if (blocks == 0 || context.failed()) return;
  struct Call {
    void (*kernel)(Params...);
    std::tuple<Params...> params;
  };
  const Call call{kernel, {args...}};
  const auto body = [](const void* data) {
    const Call& c = *static_cast<const Call*>(data);
    std::apply(c.kernel, c.params);
  };
  context.check(host::run(name, body, &call, blocks, threads, shared_bytes));
}

template <typename T>
void fill_bytes(Context& context, T* data, int value, int64_t n) {
  if (n == 0 || context.failed()) return;
  std::memset(static_cast<void*>(data), value, n * sizeof(T));
}

}  // namespace jgd::cuda
