// Replaces csrc/ffi/backend.h: the emulation needs nothing from XLA.
#pragma once

#include <optional>

#include "cuda/context.h"
#include "xla/ffi/api/ffi.h"

namespace jgd {

namespace backend = cuda;

namespace cuda {

using XlaContext = NoStream;
using BindContext = NoStream;

inline xla::ffi::Error finish(const Context& context) {
  return context.error.empty() ? xla::ffi::Error::Success()
                               : xla::ffi::Error::Internal(context.error);
}

}  // namespace cuda
}  // namespace jgd

template <>
struct xla::ffi::CtxDecoding<jgd::cuda::NoStream> {
  using Type = jgd::cuda::NoStream;
  static std::optional<Type> Decode(const XLA_FFI_Api*, XLA_FFI_ExecutionContext*,
                                    DiagnosticEngine&) {
    return Type();
  }
};

#define JGD_DEFINE_HANDLER(name, function, ...)              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function, __VA_ARGS__)
