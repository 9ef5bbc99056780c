// Defines an XLA call that does nothing, so that its time is the cost of calling.

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

static ffi::Error empty(ffi::RemainingArgs, ffi::RemainingRets) { return ffi::Error::Success(); }

XLA_FFI_DEFINE_HANDLER_SYMBOL(empty_call, empty, ffi::Ffi::Bind().RemainingArgs().RemainingRets());
