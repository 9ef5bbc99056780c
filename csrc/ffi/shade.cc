// Handles calls of the shade stage from XLA.

#ifdef JGD_BACKEND_CUDA
#include "cuda/shade.h"
#else
#include "cpu/shade.h"
#endif

#include "ffi/binder.h"
#include "math/sh.h"

namespace ffi = xla::ffi;

namespace jgd {

struct ShadeAttributes {
  int64_t degree;
  int64_t convention;
};

namespace {

// The operands of both directions.
struct ShadeOperands {
  Operand means, sh, viewmat, radii;

  explicit ShadeOperands(Binder& bind)
      : means(bind.operand("means", 2)),
        sh(bind.operand("sh", 3)),
        viewmat(bind.operand("viewmat", 3)),
        radii(bind.operand("radii", 2)) {}
};

template <typename T>
ShadeInputs<T> bind_inputs(Binder& bind, const ShadeOperands& operands,
                           const ShadeAttributes& attributes) {
  ShadeInputs<T> in;
  in.n = operands.means.core_dim(0);
  in.n_bases = operands.sh.core_dim(1);
  in.n_cameras = operands.viewmat.core_dim(0);
  in.batch = bind.batch();
  in.means = bind.in<T>(operands.means, {in.n, 3});
  in.sh = bind.in<T>(operands.sh, {in.n, in.n_bases, 3});
  in.viewmat = bind.in<T>(operands.viewmat, {in.n_cameras, 4, 4});
  in.radii = bind.in<int32_t>(operands.radii, {in.n_cameras, in.n}, /*optional=*/true);
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

ffi::Error forward(backend::XlaContext xla_context, ShadeAttributes attributes,
                   ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  return handle("jgd_shade_fwd", inputs, outputs, [&](Binder& bind, auto zero) {
    using T = decltype(zero);
    const ShadeOperands operands(bind);
    ShadeForward<T> args;
    args.in = bind_inputs<T>(bind, operands, attributes);
    args.colors = bind.out<T>("colors", {args.in.n_cameras, args.in.n, 3});
    bind.workspace();  // not used
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::shade_forward(context, args);
    return backend::finish(context);
  });
}

ffi::Error backward(backend::XlaContext xla_context, ShadeAttributes attributes,
                    ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  return handle("jgd_shade_bwd", inputs, outputs, [&](Binder& bind, auto zero) {
    using T = decltype(zero);
    const ShadeOperands operands(bind);
    const Operand v_colors = bind.operand("v_colors", 3);
    ShadeBackward<T> args;
    args.in = bind_inputs<T>(bind, operands, attributes);
    const int64_t n = args.in.n;
    const int64_t n_cameras = args.in.n_cameras;
    args.v_colors = bind.in<T>(v_colors, {n_cameras, n, 3});
    args.v_means = bind.out<T>("v_means", {n, 3}, /*optional=*/true);
    args.v_sh = bind.out<T>("v_sh", {n, args.in.n_bases, 3}, /*optional=*/true);
    args.v_viewmat = bind.out<T>("v_viewmat", {n_cameras, 4, 4}, /*optional=*/true);
    args.workspace = bind.workspace();
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

JGD_DEFINE_HANDLER(jgd_shade_fwd, jgd::forward, jgd::handler_binding<jgd::ShadeAttributes>());
JGD_DEFINE_HANDLER(jgd_shade_bwd, jgd::backward, jgd::handler_binding<jgd::ShadeAttributes>());
