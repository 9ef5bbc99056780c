// XLA boundary of the shade stage.

#ifdef JGD_BACKEND_CUDA
#include "cuda/shade.h"
#else
#include "cpu/shade.h"
#endif

#include "ffi/backend.h"
#include "ffi/checks.h"
#include "math/sh.h"

namespace ffi = xla::ffi;

namespace jgd {

struct ShadeAttributes {
  int64_t degree;
  int64_t convention;
};

namespace {

using Arg = ffi::AnyBuffer;
using Ret = ffi::Result<ffi::AnyBuffer>;

template <typename T>
ShadeInputs<T> bind_inputs(Binder& bind, const ShadeAttributes& attributes, const Arg& means,
                           const Arg& sh, const Arg& viewmat, const Arg& radii) {
  ShadeInputs<T> in;
  in.n = core_dim(means, 2, 0);
  in.n_bases = core_dim(sh, 3, 1);
  in.n_cameras = core_dim(viewmat, 3, 0);
  in.batch = bind.batch();
  in.means = bind.in<T>("means", means, {in.n, 3});
  in.sh = bind.in<T>("sh", sh, {in.n, in.n_bases, 3});
  in.viewmat = bind.in<T>("viewmat", viewmat, {in.n_cameras, 4, 4});
  in.radii = bind.in<int32_t>("radii", radii, {in.n_cameras, in.n}, /*optional=*/true);
  bind.require(attributes.degree >= 0 && attributes.degree <= kMaxShDegree &&
                   sh_bases(static_cast<int>(attributes.degree)) <= in.n_bases,
               "degree must be 0..4 and have its coefficients in sh");
  bind.require(attributes.convention >= 0 && attributes.convention < kShConventions,
               "convention must be 0, 1 or 2");
  bind.require(fits_int32(in.n) && in.n_cameras >= 1, kBadSizes);
  in.degree = static_cast<int>(attributes.degree);
  in.convention = static_cast<ShConvention>(attributes.convention);
  return in;
}

ffi::Error forward(backend::XlaContext xla_context, ShadeAttributes attributes, Arg means, Arg sh,
                   Arg viewmat, Arg radii, Ret colors, Ret workspace) {
  return dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    Binder bind("jgd_shade_fwd", {{means, 2}, {sh, 3}, {viewmat, 3}, {radii, 2}});
    ShadeForward<T> args;
    args.in = bind_inputs<T>(bind, attributes, means, sh, viewmat, radii);
    args.colors = bind.out<T>("colors", colors, {args.in.n_cameras, args.in.n, 3});
    bind.workspace(workspace);  // needs none
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::shade_forward(context, args);
    return backend::finish(context);
  });
}

ffi::Error backward(backend::XlaContext xla_context, ShadeAttributes attributes, Arg means, Arg sh,
                    Arg viewmat, Arg radii, Arg v_colors, Ret v_means, Ret v_sh, Ret v_viewmat,
                    Ret workspace) {
  return dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    Binder bind("jgd_shade_bwd", {{means, 2}, {sh, 3}, {viewmat, 3}, {radii, 2}, {v_colors, 3}});
    ShadeBackward<T> args;
    args.in = bind_inputs<T>(bind, attributes, means, sh, viewmat, radii);
    const int64_t n = args.in.n;
    const int64_t n_cameras = args.in.n_cameras;
    args.v_colors = bind.in<T>("v_colors", v_colors, {n_cameras, n, 3});
    args.v_means = bind.out<T>("v_means", v_means, {n, 3}, /*optional=*/true);
    args.v_sh = bind.out<T>("v_sh", v_sh, {n, args.in.n_bases, 3}, /*optional=*/true);
    args.v_viewmat = bind.out<T>("v_viewmat", v_viewmat, {n_cameras, 4, 4}, /*optional=*/true);
    args.workspace = bind.workspace(workspace);
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::shade_backward(context, args);
    return backend::finish(context);
  });
}

}  // namespace
}  // namespace jgd

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(jgd::ShadeAttributes, ffi::StructMember<int64_t>("degree"),
                                      ffi::StructMember<int64_t>("convention"));

JGD_DEFINE_HANDLER(jgd_shade_fwd, jgd::forward,
                   ffi::Ffi::Bind()
                       .Ctx<jgd::backend::BindContext>()
                       .Attrs<jgd::ShadeAttributes>()
                       .Arg<ffi::AnyBuffer>()    // means
                       .Arg<ffi::AnyBuffer>()    // sh
                       .Arg<ffi::AnyBuffer>()    // viewmat
                       .Arg<ffi::AnyBuffer>()    // radii
                       .Ret<ffi::AnyBuffer>()    // colors
                       .Ret<ffi::AnyBuffer>());  // workspace

JGD_DEFINE_HANDLER(jgd_shade_bwd, jgd::backward,
                   ffi::Ffi::Bind()
                       .Ctx<jgd::backend::BindContext>()
                       .Attrs<jgd::ShadeAttributes>()
                       .Arg<ffi::AnyBuffer>()    // means
                       .Arg<ffi::AnyBuffer>()    // sh
                       .Arg<ffi::AnyBuffer>()    // viewmat
                       .Arg<ffi::AnyBuffer>()    // radii
                       .Arg<ffi::AnyBuffer>()    // v_colors
                       .Ret<ffi::AnyBuffer>()    // v_means
                       .Ret<ffi::AnyBuffer>()    // v_sh
                       .Ret<ffi::AnyBuffer>()    // v_viewmat
                       .Ret<ffi::AnyBuffer>());  // workspace
