// Handles calls of the project stage from XLA.

#ifdef JGD_BACKEND_CUDA
#include "cuda/project.h"
#else
#include "cpu/project.h"
#endif

#include "ffi/binder.h"

namespace ffi = xla::ffi;

namespace jgd {

struct ProjectAttributes {
  double near_plane;
  double far_plane;
  double eps2d;
  int64_t width;
  int64_t height;
  bool antialiased;
  bool three_sigma;
  bool keep_outside;
};

namespace {

// The operands of both directions.
struct ProjectOperands {
  Operand means, quats, scales, covars, opacities, viewmat, K;

  explicit ProjectOperands(Binder& bind)
      : means(bind.operand("means", 2)),
        quats(bind.operand("quats", 2)),
        scales(bind.operand("scales", 2)),
        covars(bind.operand("covars", 2)),
        opacities(bind.operand("opacities", 1)),
        viewmat(bind.operand("viewmat", 3)),
        K(bind.operand("K", 3)) {}
};

template <typename T>
ProjectionSettings<T> settings_of(const ProjectAttributes& attributes) {
  ProjectionSettings<T> settings;
  settings.near_plane = static_cast<T>(attributes.near_plane);
  settings.far_plane = static_cast<T>(attributes.far_plane);
  settings.eps2d = static_cast<T>(attributes.eps2d);
  settings.width = static_cast<int>(attributes.width);
  settings.height = static_cast<int>(attributes.height);
  settings.antialiased = attributes.antialiased;
  settings.three_sigma = attributes.three_sigma;
  settings.keep_outside = attributes.keep_outside;
  return settings;
}

template <typename T>
ProjectInputs<T> bind_inputs(Binder& bind, const ProjectOperands& operands,
                             const ProjectAttributes& attributes) {
  ProjectInputs<T> in;
  in.n = operands.means.core_dim(0);
  in.n_cameras = operands.viewmat.core_dim(0);
  in.batch = bind.batch();
  in.means = bind.in<T>(operands.means, {in.n, 3});
  in.quats = bind.in<T>(operands.quats, {in.n, 4}, /*optional=*/true);
  in.scales = bind.in<T>(operands.scales, {in.n, 3}, /*optional=*/true);
  in.covars = bind.in<T>(operands.covars, {in.n, 6}, /*optional=*/true);
  in.opacities = bind.in<T>(operands.opacities, {in.n});
  in.viewmat = bind.in<T>(operands.viewmat, {in.n_cameras, 4, 4});
  in.K = bind.in<T>(operands.K, {in.n_cameras, 3, 3});
  bind.require(in.n == 0 || in.covars.data || (in.quats.data && in.scales.data),
               "needs covars or quats and scales");
  bind.require(fits_int32(in.n) && in.n_cameras >= 1 && is_image_side(attributes.width) &&
                   is_image_side(attributes.height),
               kBadSizes);
  in.settings = settings_of<T>(attributes);
  return in;
}

ffi::Error forward(backend::XlaContext xla_context, ProjectAttributes attributes,
                   ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  return handle("jgd_project_fwd", inputs, outputs, [&](Binder& bind, auto zero) {
    using T = decltype(zero);
    const ProjectOperands operands(bind);
    ProjectForward<T> args;
    args.in = bind_inputs<T>(bind, operands, attributes);
    const int64_t n = args.in.n;
    const int64_t n_cameras = args.in.n_cameras;
    args.means2d = bind.out<T>("means2d", {n_cameras, n, 2});
    args.depths = bind.out<T>("depths", {n_cameras, n});
    args.conics = bind.out<T>("conics", {n_cameras, n, 3});
    args.opacities = bind.out<T>("splat opacities", {n_cameras, n});
    args.radii = bind.out<int32_t>("radii", {n_cameras, n});
    bind.workspace();  // not used
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::project_forward(context, args);
    return backend::finish(context);
  });
}

ffi::Error backward(backend::XlaContext xla_context, ProjectAttributes attributes,
                    ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  return handle("jgd_project_bwd", inputs, outputs, [&](Binder& bind, auto zero) {
    using T = decltype(zero);
    const ProjectOperands operands(bind);
    const Operand radii = bind.operand("radii", 2);
    const Operand v_means2d = bind.operand("v_means2d", 3);
    const Operand v_depths = bind.operand("v_depths", 2);
    const Operand v_conics = bind.operand("v_conics", 3);
    const Operand v_splat_opacities = bind.operand("v_splat_opacities", 2);
    ProjectBackward<T> args;
    args.in = bind_inputs<T>(bind, operands, attributes);
    const int64_t n = args.in.n;
    const int64_t n_cameras = args.in.n_cameras;
    args.radii = bind.in<int32_t>(radii, {n_cameras, n});
    args.v_means2d = bind.in<T>(v_means2d, {n_cameras, n, 2}, /*optional=*/true);
    args.v_depths = bind.in<T>(v_depths, {n_cameras, n}, /*optional=*/true);
    args.v_conics = bind.in<T>(v_conics, {n_cameras, n, 3}, /*optional=*/true);
    args.v_splat_opacities = bind.in<T>(v_splat_opacities, {n_cameras, n}, /*optional=*/true);
    args.v_means = bind.out<T>("v_means", {n, 3}, /*optional=*/true);
    args.v_quats = bind.out<T>("v_quats", {n, 4}, /*optional=*/true);
    args.v_scales = bind.out<T>("v_scales", {n, 3}, /*optional=*/true);
    args.v_covars = bind.out<T>("v_covars", {n, 6}, /*optional=*/true);
    args.v_opacities = bind.out<T>("v_opacities", {n}, /*optional=*/true);
    args.v_viewmat = bind.out<T>("v_viewmat", {n_cameras, 4, 4}, /*optional=*/true);
    args.v_K = bind.out<T>("v_K", {n_cameras, 3, 3}, /*optional=*/true);
    args.workspace = bind.workspace();
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::project_backward(context, args);
    return backend::finish(context);
  });
}

}  // namespace
}  // namespace jgd

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(
    jgd::ProjectAttributes, ffi::StructMember<double>("near_plane"),
    ffi::StructMember<double>("far_plane"), ffi::StructMember<double>("eps2d"),
    ffi::StructMember<int64_t>("width"), ffi::StructMember<int64_t>("height"),
    ffi::StructMember<bool>("antialiased"), ffi::StructMember<bool>("three_sigma"),
    ffi::StructMember<bool>("keep_outside"));

JGD_DEFINE_HANDLER(jgd_project_fwd, jgd::forward, jgd::handler_binding<jgd::ProjectAttributes>());
JGD_DEFINE_HANDLER(jgd_project_bwd, jgd::backward, jgd::handler_binding<jgd::ProjectAttributes>());
