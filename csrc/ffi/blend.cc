// Handles calls of the blend stage from XLA.

#ifdef JGD_BACKEND_CUDA
#include "cuda/blend.h"
#else
#include "cpu/blend.h"
#endif

#include "ffi/binder.h"
#include "ffi/splats.h"

namespace ffi = xla::ffi;

namespace jgd {

struct BlendAttributes {
  int64_t width;
  int64_t height;
  bool three_sigma;
  int64_t capacity;
  bool deterministic;
};

namespace {

// The operands of both directions.
struct BlendOperands {
  SplatOperands splats;
  Operand order, colors, background;

  explicit BlendOperands(Binder& bind)
      : splats(bind),
        order(bind.operand("order", 2)),
        colors(bind.operand("colors", 3)),
        background(bind.operand("background", 2)) {}
};

template <typename T>
BlendInputs<T> bind_inputs(Binder& bind, const BlendOperands& operands,
                           const BlendAttributes& attributes) {
  BlendInputs<T> in;
  in.splats = bind_splats<T>(bind, operands.splats, attributes.width, attributes.height,
                             attributes.three_sigma);
  const int64_t n = in.splats.n;
  const int64_t n_cameras = in.splats.n_cameras;
  in.n_channels = operands.background.core_dim(1);
  const int64_t n_color_sets = operands.colors.core_dim(0);
  const int64_t n_backgrounds = operands.background.core_dim(0);
  in.shared_colors = n_color_sets == 1;
  in.shared_background = n_backgrounds == 1;
  bind.require(in.shared_colors || n_color_sets == n_cameras, "colors must be for 1 or C cameras");
  bind.require(in.shared_background || n_backgrounds == n_cameras,
               "background must be for 1 or C cameras");
  in.order = bind.in<int32_t>(operands.order, {n_cameras, n});
  in.colors = bind.in<T>(operands.colors, {n_color_sets, n, in.n_channels});
  in.background = bind.in<T>(operands.background, {n_backgrounds, in.n_channels});
  in.capacity = attributes.capacity;
  bind.require(in.capacity >= 0, "capacity must not be negative");
  return in;
}

ffi::Error forward(backend::XlaContext xla_context, BlendAttributes attributes,
                   ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  return handle("jgd_blend_fwd", inputs, outputs, [&](Binder& bind, auto zero) {
    using T = decltype(zero);
    const BlendOperands operands(bind);
    BlendForward<T> args;
    args.in = bind_inputs<T>(bind, operands, attributes);
    const int64_t n_cameras = args.in.splats.n_cameras;
    const int64_t h = args.in.splats.height;
    const int64_t w = args.in.splats.width;
    args.image = bind.out<T>("image", {n_cameras, h, w, args.in.n_channels});
    args.depth = bind.out<T>("depth", {n_cameras, h, w});
    args.weight = bind.out<T>("weight", {n_cameras, h, w});
    args.transmittance = bind.out<T>("transmittance", {n_cameras, h, w}, /*optional=*/true);
    args.last = bind.out<int32_t>("last", {n_cameras, h, w}, /*optional=*/true);
    args.median = bind.out<int32_t>("median", {n_cameras, h, w}, /*optional=*/true);
    args.n_isects = bind.out<int32_t>("n_isects", {n_cameras});
    args.n_isects_listed = bind.out<int32_t>("n_isects_listed", {n_cameras});
    bind.require(!args.transmittance.data == !args.last.data,
                 "needs both or neither of transmittance and last");
    args.workspace = bind.workspace();
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::blend_forward(context, args);
    return backend::finish(context);
  });
}

ffi::Error backward(backend::XlaContext xla_context, BlendAttributes attributes,
                    ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  return handle("jgd_blend_bwd", inputs, outputs, [&](Binder& bind, auto zero) {
    using T = decltype(zero);
    const BlendOperands operands(bind);
    const Operand depth = bind.operand("depth", 3);
    const Operand weight = bind.operand("weight", 3);
    const Operand transmittance = bind.operand("transmittance", 3);
    const Operand last = bind.operand("last", 3);
    const Operand v_image = bind.operand("v_image", 4);
    const Operand v_depth = bind.operand("v_depth", 3);
    const Operand v_weight = bind.operand("v_weight", 3);
    BlendBackward<T> args;
    args.in = bind_inputs<T>(bind, operands, attributes);
    const int64_t n = args.in.splats.n;
    const int64_t n_cameras = args.in.splats.n_cameras;
    const int64_t h = args.in.splats.height;
    const int64_t w = args.in.splats.width;
    const int64_t d = args.in.n_channels;
    const int64_t n_color_sets = args.in.shared_colors ? 1 : n_cameras;
    const int64_t n_backgrounds = args.in.shared_background ? 1 : n_cameras;
    args.deterministic = attributes.deterministic;
    args.depth = bind.in<T>(depth, {n_cameras, h, w});
    args.weight = bind.in<T>(weight, {n_cameras, h, w});
    args.transmittance = bind.in<T>(transmittance, {n_cameras, h, w});
    args.last = bind.in<int32_t>(last, {n_cameras, h, w});
    args.v_image = bind.in<T>(v_image, {n_cameras, h, w, d}, /*optional=*/true);
    args.v_depth = bind.in<T>(v_depth, {n_cameras, h, w}, /*optional=*/true);
    args.v_weight = bind.in<T>(v_weight, {n_cameras, h, w}, /*optional=*/true);
    args.v_means2d = bind.out<T>("v_means2d", {n_cameras, n, 2});
    args.v_means2d_abs = bind.out<T>("v_means2d_abs", {n_cameras, n, 2}, /*optional=*/true);
    args.v_depths = bind.out<T>("v_depths", {n_cameras, n});
    args.v_conics = bind.out<T>("v_conics", {n_cameras, n, 3});
    args.v_opacities = bind.out<T>("v_opacities", {n_cameras, n});
    args.v_colors = bind.out<T>("v_colors", {n_color_sets, n, d}, /*optional=*/true);
    args.v_background = bind.out<T>("v_background", {n_backgrounds, d}, /*optional=*/true);
    args.workspace = bind.workspace();
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::blend_backward(context, args);
    return backend::finish(context);
  });
}

}  // namespace
}  // namespace jgd

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(jgd::BlendAttributes, ffi::StructMember<int64_t>("width"),
                                      ffi::StructMember<int64_t>("height"),
                                      ffi::StructMember<bool>("three_sigma"),
                                      ffi::StructMember<int64_t>("capacity"),
                                      ffi::StructMember<bool>("deterministic"));

JGD_DEFINE_HANDLER(jgd_blend_fwd, jgd::forward, jgd::handler_binding<jgd::BlendAttributes>());
JGD_DEFINE_HANDLER(jgd_blend_bwd, jgd::backward, jgd::handler_binding<jgd::BlendAttributes>());
