// Handles calls of the bin stage from XLA.

#ifdef JGD_BACKEND_CUDA
#include "cuda/bin.h"
#else
#include "cpu/bin.h"
#endif

#include "ffi/binder.h"
#include "ffi/splats.h"

namespace ffi = xla::ffi;

namespace jgd {

struct BinAttributes {
  int64_t width;
  int64_t height;
  bool three_sigma;
};

namespace {

ffi::Error forward(backend::XlaContext xla_context, BinAttributes attributes,
                   ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  return handle("jgd_bin_fwd", inputs, outputs, [&](Binder& bind, auto zero) {
    using T = decltype(zero);
    const SplatOperands splats(bind);
    BinForward<T> args;
    args.in =
        bind_splats<T>(bind, splats, attributes.width, attributes.height, attributes.three_sigma);
    args.order = bind.out<int32_t>("order", {args.in.n_cameras, args.in.n});
    args.tile_counts = bind.out<int32_t>(
        "tile_counts", {args.in.n_cameras, tile_count(args.in.height), tile_count(args.in.width)},
        /*optional=*/true);
    args.workspace = bind.workspace();
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::bin_forward(context, args);
    return backend::finish(context);
  });
}

}  // namespace
}  // namespace jgd

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(jgd::BinAttributes, ffi::StructMember<int64_t>("width"),
                                      ffi::StructMember<int64_t>("height"),
                                      ffi::StructMember<bool>("three_sigma"));

JGD_DEFINE_HANDLER(jgd_bin_fwd, jgd::forward, jgd::handler_binding<jgd::BinAttributes>());
