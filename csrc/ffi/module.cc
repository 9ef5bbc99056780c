// Defines the Python module of one backend: its FFI targets and the constants that Python shares.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "cuda/workspace.h"
#include "math/constants.h"
#include "xla/ffi/api/c_api.h"

#ifndef JGD_BACKEND_CUDA
#include "cpu/dispatch.h"
#include "ffi/abort.h"
#endif

namespace nb = nanobind;
using namespace nb::literals;

#define JGD_OP(name) extern "C" XLA_FFI_Error* name(XLA_FFI_CallFrame* call_frame);
#include "ffi/ops.inc"
#undef JGD_OP

NB_MODULE(JGD_MODULE, m) {
  m.def("registrations", [] {
    nb::dict targets;
#define JGD_OP(name) targets[#name] = nb::capsule(reinterpret_cast<void*>(&name));
#include "ffi/ops.inc"
#undef JGD_OP
    return targets;
  });
  // The scratch memory that Python allocates for an op on a GPU. It is asked for when a call is
  // compiled, possibly on a machine without one.
  m.def(
      "workspace_bytes",
      [](const std::string& target, bool is_double, int64_t n_batch, int64_t n_cameras, int64_t n,
         int64_t width, int64_t height, int64_t n_channels, int64_t capacity, bool deterministic) {
        jgd::cuda::CallSizes sizes;
        sizes.n_batch = n_batch;
        sizes.n_cameras = n_cameras;
        sizes.n = n;
        sizes.width = width;
        sizes.height = height;
        sizes.n_channels = n_channels;
        sizes.capacity = capacity;
        sizes.deterministic = deterministic;
        return jgd::cuda::workspace_bytes(target.c_str(), is_double, sizes);
      },
      "target"_a, "is_double"_a, "n_batch"_a, "n_cameras"_a, "n"_a, "width"_a, "height"_a,
      "n_channels"_a, "capacity"_a, "deterministic"_a);
  m.attr("TILE_SIZE") = jgd::kTileSize;
  m.attr("ALPHA_MIN") = jgd::kAlphaMin;
  m.attr("ALPHA_MAX") = jgd::kAlphaMax;
  m.attr("TRANSMITTANCE_MIN") = jgd::kTransmittanceMin;
#ifndef JGD_BACKEND_CUDA
  m.def("isa", [] { return std::string(jgd::cpu::isa_name()); });
  m.def("exit_on_abort", &jgd::exit_on_abort, "message"_a, "code"_a);
  m.def("abort_as_before", &jgd::abort_as_before);
#endif
}
