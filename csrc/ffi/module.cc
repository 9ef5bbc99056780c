// The Python module of one backend: its FFI targets and the constants that Python shares.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "math/constants.h"
#include "xla/ffi/api/c_api.h"

#ifndef JGD_BACKEND_CUDA
#include "cpu/blend_tile.h"
#endif

namespace nb = nanobind;

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
  m.attr("TILE_SIZE") = jgd::kTileSize;
  m.attr("ALPHA_MIN") = jgd::kAlphaMin;
  m.attr("ALPHA_MAX") = jgd::kAlphaMax;
  m.attr("TRANSMITTANCE_MIN") = jgd::kTransmittanceMin;
#ifndef JGD_BACKEND_CUDA
  m.def("isa", [] { return std::string(jgd::cpu::isa_name()); });
#endif
}
