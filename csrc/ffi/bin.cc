// XLA boundary of the bin stage.

#ifdef JGD_BACKEND_CUDA
#include "cuda/bin.h"
#else
#include "cpu/bin.h"
#endif

#include "ffi/backend.h"
#include "ffi/checks.h"
#include "ffi/splats.h"

namespace ffi = xla::ffi;

namespace jgd {

struct BinAttributes {
  int64_t width;
  int64_t height;
  bool three_sigma;
};

namespace {

using Arg = ffi::AnyBuffer;
using Ret = ffi::Result<ffi::AnyBuffer>;

ffi::Error forward(backend::XlaContext xla_context, BinAttributes attributes, Arg means2d,
                   Arg depths, Arg conics, Arg opacities, Arg radii, Ret order, Ret tile_counts,
                   Ret workspace) {
  return dispatch_float(means2d, [&](auto zero) {
    using T = decltype(zero);
    Binder bind("jgd_bin_fwd",
                {{means2d, 3}, {depths, 2}, {conics, 3}, {opacities, 2}, {radii, 2}});
    BinForward<T> args;
    args.in = bind_splats<T>(bind, attributes.width, attributes.height, attributes.three_sigma,
                             means2d, depths, conics, opacities, radii);
    args.order = bind.out<int32_t>("order", order, {args.in.n_cameras, args.in.n});
    args.tile_counts = bind.out<int32_t>(
        "tile_counts", tile_counts,
        {args.in.n_cameras, tile_count(args.in.height), tile_count(args.in.width)},
        /*optional=*/true);
    args.workspace = bind.workspace(workspace);
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

JGD_DEFINE_HANDLER(jgd_bin_fwd, jgd::forward,
                   ffi::Ffi::Bind()
                       .Ctx<jgd::backend::BindContext>()
                       .Attrs<jgd::BinAttributes>()
                       .Arg<ffi::AnyBuffer>()    // means2d
                       .Arg<ffi::AnyBuffer>()    // depths
                       .Arg<ffi::AnyBuffer>()    // conics
                       .Arg<ffi::AnyBuffer>()    // opacities
                       .Arg<ffi::AnyBuffer>()    // radii
                       .Ret<ffi::AnyBuffer>()    // order
                       .Ret<ffi::AnyBuffer>()    // tile_counts
                       .Ret<ffi::AnyBuffer>());  // workspace
