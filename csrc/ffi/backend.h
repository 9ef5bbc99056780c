// Hides the differences between the backends from the handlers, which are compiled for both.
//
// A backend has: XlaContext, the context that XLA passes to a handler, bound as BindContext;
// Context, which is made from it and passed to the stages; finish(), which makes the result of a
// handler; JGD_DEFINE_HANDLER, which defines the symbol of an op from its function and binding.
#pragma once

#include "xla/ffi/api/ffi.h"

#ifdef JGD_BACKEND_CUDA

#include "cuda/context.h"

namespace jgd {

namespace backend = cuda;

namespace cuda {

using XlaContext = cudaStream_t;
using BindContext = xla::ffi::PlatformStream<cudaStream_t>;

inline xla::ffi::Error finish(const Context& context) {
  if (!context.failed()) return xla::ffi::Error::Success();
  const auto code = context.out_of_memory ? xla::ffi::ErrorCode::kResourceExhausted
                                          : xla::ffi::ErrorCode::kInternal;
  return xla::ffi::Error(code, context.error);
}

}  // namespace cuda
}  // namespace jgd

// The trait lets XLA record the op into a CUDA graph.
#define JGD_DEFINE_HANDLER(name, function, binding)                                                \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function, binding, {xla::ffi::Traits::kCmdBufferCompatible})

#else

#include <functional>
#include <utility>

#include "cpu/parallel.h"

namespace jgd {

namespace backend = cpu;

namespace cpu {

// Gives XLA's pool the interface that the loops expect.
class XlaThreadPool final : public ThreadPool {
 public:
  explicit XlaThreadPool(xla::ffi::ThreadPool& pool) : pool_(pool) {}
  int64_t num_threads() const override { return pool_.num_threads(); }
  void schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  xla::ffi::ThreadPool& pool_;
};

using XlaContext = xla::ffi::ThreadPool;
using BindContext = xla::ffi::ThreadPool;
using Context = XlaThreadPool;

inline xla::ffi::Error finish(const Context&) { return xla::ffi::Error::Success(); }

}  // namespace cpu
}  // namespace jgd

#define JGD_DEFINE_HANDLER(name, function, binding)      \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function, binding)

#endif
