// XLA boundary of the blend stage.

#ifdef JGD_BACKEND_CUDA
#include "cuda/blend.h"
#else
#include "cpu/blend.h"
#endif

#include "ffi/backend.h"
#include "ffi/checks.h"
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

using Arg = ffi::AnyBuffer;
using Ret = ffi::Result<ffi::AnyBuffer>;

template <typename T>
BlendInputs<T> bind_inputs(Binder& bind, const BlendAttributes& attributes, const Arg& means2d,
                           const Arg& depths, const Arg& conics, const Arg& opacities,
                           const Arg& radii, const Arg& order, const Arg& colors,
                           const Arg& background) {
  BlendInputs<T> in;
  in.splats = bind_splats<T>(bind, attributes.width, attributes.height, attributes.three_sigma,
                             means2d, depths, conics, opacities, radii);
  const int64_t n = in.splats.n;
  const int64_t n_cameras = in.splats.n_cameras;
  in.n_channels = core_dim(background, 2, 1);
  const int64_t n_color_sets = core_dim(colors, 3, 0);
  const int64_t n_backgrounds = core_dim(background, 2, 0);
  in.shared_colors = n_color_sets == 1;
  in.shared_background = n_backgrounds == 1;
  bind.require(in.shared_colors || n_color_sets == n_cameras, "colors must be for 1 or C cameras");
  bind.require(in.shared_background || n_backgrounds == n_cameras,
               "background must be for 1 or C cameras");
  in.order = bind.in<int32_t>("order", order, {n_cameras, n});
  in.colors = bind.in<T>("colors", colors, {n_color_sets, n, in.n_channels});
  in.background = bind.in<T>("background", background, {n_backgrounds, in.n_channels});
  in.capacity = attributes.capacity;
  bind.require(in.capacity >= 0, "capacity must not be negative");
  return in;
}

ffi::Error forward(backend::XlaContext xla_context, BlendAttributes attributes, Arg means2d,
                   Arg depths, Arg conics, Arg opacities, Arg radii, Arg order, Arg colors,
                   Arg background, Ret image, Ret depth, Ret weight, Ret transmittance, Ret last,
                   Ret median, Ret n_isects, Ret n_isects_listed, Ret workspace) {
  return dispatch_float(means2d, [&](auto zero) {
    using T = decltype(zero);
    Binder bind("jgd_blend_fwd", {{means2d, 3},
                                  {depths, 2},
                                  {conics, 3},
                                  {opacities, 2},
                                  {radii, 2},
                                  {order, 2},
                                  {colors, 3},
                                  {background, 2}});
    BlendForward<T> args;
    args.in = bind_inputs<T>(bind, attributes, means2d, depths, conics, opacities, radii, order,
                             colors, background);
    const int64_t n_cameras = args.in.splats.n_cameras;
    const int64_t h = args.in.splats.height;
    const int64_t w = args.in.splats.width;
    args.image = bind.out<T>("image", image, {n_cameras, h, w, args.in.n_channels});
    args.depth = bind.out<T>("depth", depth, {n_cameras, h, w});
    args.weight = bind.out<T>("weight", weight, {n_cameras, h, w});
    args.transmittance =
        bind.out<T>("transmittance", transmittance, {n_cameras, h, w}, /*optional=*/true);
    args.last = bind.out<int32_t>("last", last, {n_cameras, h, w}, /*optional=*/true);
    args.median = bind.out<int32_t>("median", median, {n_cameras, h, w}, /*optional=*/true);
    args.n_isects = bind.out<int32_t>("n_isects", n_isects, {n_cameras});
    args.n_isects_listed = bind.out<int32_t>("n_isects_listed", n_isects_listed, {n_cameras});
    bind.require(!args.transmittance.data == !args.last.data,
                 "needs both or neither of transmittance and last");
    args.workspace = bind.workspace(workspace);
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::blend_forward(context, args);
    return backend::finish(context);
  });
}

ffi::Error backward(backend::XlaContext xla_context, BlendAttributes attributes, Arg means2d,
                    Arg depths, Arg conics, Arg opacities, Arg radii, Arg order, Arg colors,
                    Arg background, Arg depth, Arg weight, Arg transmittance, Arg last, Arg v_image,
                    Arg v_depth, Arg v_weight, Ret v_means2d, Ret v_means2d_abs, Ret v_depths,
                    Ret v_conics, Ret v_opacities, Ret v_colors, Ret v_background, Ret workspace) {
  return dispatch_float(means2d, [&](auto zero) {
    using T = decltype(zero);
    Binder bind("jgd_blend_bwd", {{means2d, 3},
                                  {depths, 2},
                                  {conics, 3},
                                  {opacities, 2},
                                  {radii, 2},
                                  {order, 2},
                                  {colors, 3},
                                  {background, 2},
                                  {depth, 3},
                                  {weight, 3},
                                  {transmittance, 3},
                                  {last, 3},
                                  {v_image, 4},
                                  {v_depth, 3},
                                  {v_weight, 3}});
    BlendBackward<T> args;
    args.in = bind_inputs<T>(bind, attributes, means2d, depths, conics, opacities, radii, order,
                             colors, background);
    const int64_t n = args.in.splats.n;
    const int64_t n_cameras = args.in.splats.n_cameras;
    const int64_t h = args.in.splats.height;
    const int64_t w = args.in.splats.width;
    const int64_t d = args.in.n_channels;
    const int64_t n_color_sets = args.in.shared_colors ? 1 : n_cameras;
    const int64_t n_backgrounds = args.in.shared_background ? 1 : n_cameras;
    args.deterministic = attributes.deterministic;
    args.depth = bind.in<T>("depth", depth, {n_cameras, h, w});
    args.weight = bind.in<T>("weight", weight, {n_cameras, h, w});
    args.transmittance = bind.in<T>("transmittance", transmittance, {n_cameras, h, w});
    args.last = bind.in<int32_t>("last", last, {n_cameras, h, w});
    args.v_image = bind.in<T>("v_image", v_image, {n_cameras, h, w, d}, /*optional=*/true);
    args.v_depth = bind.in<T>("v_depth", v_depth, {n_cameras, h, w}, /*optional=*/true);
    args.v_weight = bind.in<T>("v_weight", v_weight, {n_cameras, h, w}, /*optional=*/true);
    args.v_means2d = bind.out<T>("v_means2d", v_means2d, {n_cameras, n, 2});
    args.v_means2d_abs =
        bind.out<T>("v_means2d_abs", v_means2d_abs, {n_cameras, n, 2}, /*optional=*/true);
    args.v_depths = bind.out<T>("v_depths", v_depths, {n_cameras, n});
    args.v_conics = bind.out<T>("v_conics", v_conics, {n_cameras, n, 3});
    args.v_opacities = bind.out<T>("v_opacities", v_opacities, {n_cameras, n});
    args.v_colors = bind.out<T>("v_colors", v_colors, {n_color_sets, n, d}, /*optional=*/true);
    args.v_background =
        bind.out<T>("v_background", v_background, {n_backgrounds, d}, /*optional=*/true);
    args.workspace = bind.workspace(workspace);
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

JGD_DEFINE_HANDLER(jgd_blend_fwd, jgd::forward,
                   ffi::Ffi::Bind()
                       .Ctx<jgd::backend::BindContext>()
                       .Attrs<jgd::BlendAttributes>()
                       .Arg<ffi::AnyBuffer>()    // means2d
                       .Arg<ffi::AnyBuffer>()    // depths
                       .Arg<ffi::AnyBuffer>()    // conics
                       .Arg<ffi::AnyBuffer>()    // opacities
                       .Arg<ffi::AnyBuffer>()    // radii
                       .Arg<ffi::AnyBuffer>()    // order
                       .Arg<ffi::AnyBuffer>()    // colors
                       .Arg<ffi::AnyBuffer>()    // background
                       .Ret<ffi::AnyBuffer>()    // image
                       .Ret<ffi::AnyBuffer>()    // depth
                       .Ret<ffi::AnyBuffer>()    // weight
                       .Ret<ffi::AnyBuffer>()    // transmittance
                       .Ret<ffi::AnyBuffer>()    // last
                       .Ret<ffi::AnyBuffer>()    // median
                       .Ret<ffi::AnyBuffer>()    // n_isects
                       .Ret<ffi::AnyBuffer>()    // n_isects_listed
                       .Ret<ffi::AnyBuffer>());  // workspace

JGD_DEFINE_HANDLER(jgd_blend_bwd, jgd::backward,
                   ffi::Ffi::Bind()
                       .Ctx<jgd::backend::BindContext>()
                       .Attrs<jgd::BlendAttributes>()
                       .Arg<ffi::AnyBuffer>()    // means2d
                       .Arg<ffi::AnyBuffer>()    // depths
                       .Arg<ffi::AnyBuffer>()    // conics
                       .Arg<ffi::AnyBuffer>()    // opacities
                       .Arg<ffi::AnyBuffer>()    // radii
                       .Arg<ffi::AnyBuffer>()    // order
                       .Arg<ffi::AnyBuffer>()    // colors
                       .Arg<ffi::AnyBuffer>()    // background
                       .Arg<ffi::AnyBuffer>()    // depth
                       .Arg<ffi::AnyBuffer>()    // weight
                       .Arg<ffi::AnyBuffer>()    // transmittance
                       .Arg<ffi::AnyBuffer>()    // last
                       .Arg<ffi::AnyBuffer>()    // v_image
                       .Arg<ffi::AnyBuffer>()    // v_depth
                       .Arg<ffi::AnyBuffer>()    // v_weight
                       .Ret<ffi::AnyBuffer>()    // v_means2d
                       .Ret<ffi::AnyBuffer>()    // v_means2d_abs
                       .Ret<ffi::AnyBuffer>()    // v_depths
                       .Ret<ffi::AnyBuffer>()    // v_conics
                       .Ret<ffi::AnyBuffer>()    // v_opacities
                       .Ret<ffi::AnyBuffer>()    // v_colors
                       .Ret<ffi::AnyBuffer>()    // v_background
                       .Ret<ffi::AnyBuffer>());  // workspace
