// XLA boundary of the project stage.

#ifdef JGD_BACKEND_CUDA
#include "cuda/project.h"
#else
#include "cpu/project.h"
#endif

#include "ffi/backend.h"
#include "ffi/checks.h"

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

using Arg = ffi::AnyBuffer;
using Ret = ffi::Result<ffi::AnyBuffer>;

template <typename T>
ProjectInputs<T> bind_inputs(Binder& bind, const ProjectAttributes& attributes, const Arg& means,
                             const Arg& quats, const Arg& scales, const Arg& covars,
                             const Arg& opacities, const Arg& viewmat, const Arg& K) {
  ProjectInputs<T> in;
  in.n = core_dim(means, 2, 0);
  in.n_cameras = core_dim(viewmat, 3, 0);
  in.batch = bind.batch();
  in.means = bind.in<T>("means", means, {in.n, 3});
  in.quats = bind.in<T>("quats", quats, {in.n, 4}, /*optional=*/true);
  in.scales = bind.in<T>("scales", scales, {in.n, 3}, /*optional=*/true);
  in.covars = bind.in<T>("covars", covars, {in.n, 6}, /*optional=*/true);
  in.opacities = bind.in<T>("opacities", opacities, {in.n});
  in.viewmat = bind.in<T>("viewmat", viewmat, {in.n_cameras, 4, 4});
  in.K = bind.in<T>("K", K, {in.n_cameras, 3, 3});
  bind.require(in.n == 0 || in.covars.data || (in.quats.data && in.scales.data),
               "needs covars or quats and scales");
  bind.require(fits_int32(in.n) && in.n_cameras >= 1 && is_image_side(attributes.width) &&
                   is_image_side(attributes.height),
               kBadSizes);
  in.settings = {static_cast<T>(attributes.near_plane),
                 static_cast<T>(attributes.far_plane),
                 static_cast<T>(attributes.eps2d),
                 static_cast<int>(attributes.width),
                 static_cast<int>(attributes.height),
                 attributes.antialiased,
                 attributes.three_sigma,
                 attributes.keep_outside};
  return in;
}

ffi::Error forward(backend::XlaContext xla_context, ProjectAttributes attributes, Arg means,
                   Arg quats, Arg scales, Arg covars, Arg opacities, Arg viewmat, Arg K,
                   Ret means2d, Ret depths, Ret conics, Ret splat_opacities, Ret radii,
                   Ret workspace) {
  return dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    Binder bind(
        "jgd_project_fwd",
        {{means, 2}, {quats, 2}, {scales, 2}, {covars, 2}, {opacities, 1}, {viewmat, 3}, {K, 3}});
    ProjectForward<T> args;
    args.in = bind_inputs<T>(bind, attributes, means, quats, scales, covars, opacities, viewmat, K);
    const int64_t n = args.in.n;
    const int64_t n_cameras = args.in.n_cameras;
    args.means2d = bind.out<T>("means2d", means2d, {n_cameras, n, 2});
    args.depths = bind.out<T>("depths", depths, {n_cameras, n});
    args.conics = bind.out<T>("conics", conics, {n_cameras, n, 3});
    args.opacities = bind.out<T>("splat opacities", splat_opacities, {n_cameras, n});
    args.radii = bind.out<int32_t>("radii", radii, {n_cameras, n});
    bind.workspace(workspace);  // needs none
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::project_forward(context, args);
    return backend::finish(context);
  });
}

ffi::Error backward(backend::XlaContext xla_context, ProjectAttributes attributes, Arg means,
                    Arg quats, Arg scales, Arg covars, Arg opacities, Arg viewmat, Arg K, Arg radii,
                    Arg v_means2d, Arg v_depths, Arg v_conics, Arg v_splat_opacities, Ret v_means,
                    Ret v_quats, Ret v_scales, Ret v_covars, Ret v_opacities, Ret v_viewmat,
                    Ret v_K, Ret workspace) {
  return dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    Binder bind("jgd_project_bwd", {{means, 2},
                                    {quats, 2},
                                    {scales, 2},
                                    {covars, 2},
                                    {opacities, 1},
                                    {viewmat, 3},
                                    {K, 3},
                                    {radii, 2},
                                    {v_means2d, 3},
                                    {v_depths, 2},
                                    {v_conics, 3},
                                    {v_splat_opacities, 2}});
    ProjectBackward<T> args;
    args.in = bind_inputs<T>(bind, attributes, means, quats, scales, covars, opacities, viewmat, K);
    const int64_t n = args.in.n;
    const int64_t n_cameras = args.in.n_cameras;
    args.radii = bind.in<int32_t>("radii", radii, {n_cameras, n});
    args.v_means2d = bind.in<T>("v_means2d", v_means2d, {n_cameras, n, 2}, /*optional=*/true);
    args.v_depths = bind.in<T>("v_depths", v_depths, {n_cameras, n}, /*optional=*/true);
    args.v_conics = bind.in<T>("v_conics", v_conics, {n_cameras, n, 3}, /*optional=*/true);
    args.v_splat_opacities =
        bind.in<T>("v_splat_opacities", v_splat_opacities, {n_cameras, n}, /*optional=*/true);
    args.v_means = bind.out<T>("v_means", v_means, {n, 3}, /*optional=*/true);
    args.v_quats = bind.out<T>("v_quats", v_quats, {n, 4}, /*optional=*/true);
    args.v_scales = bind.out<T>("v_scales", v_scales, {n, 3}, /*optional=*/true);
    args.v_covars = bind.out<T>("v_covars", v_covars, {n, 6}, /*optional=*/true);
    args.v_opacities = bind.out<T>("v_opacities", v_opacities, {n}, /*optional=*/true);
    args.v_viewmat = bind.out<T>("v_viewmat", v_viewmat, {n_cameras, 4, 4}, /*optional=*/true);
    args.v_K = bind.out<T>("v_K", v_K, {n_cameras, 3, 3}, /*optional=*/true);
    args.workspace = bind.workspace(workspace);
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

JGD_DEFINE_HANDLER(jgd_project_fwd, jgd::forward,
                   ffi::Ffi::Bind()
                       .Ctx<jgd::backend::BindContext>()
                       .Attrs<jgd::ProjectAttributes>()
                       .Arg<ffi::AnyBuffer>()    // means
                       .Arg<ffi::AnyBuffer>()    // quats
                       .Arg<ffi::AnyBuffer>()    // scales
                       .Arg<ffi::AnyBuffer>()    // covars
                       .Arg<ffi::AnyBuffer>()    // opacities
                       .Arg<ffi::AnyBuffer>()    // viewmat
                       .Arg<ffi::AnyBuffer>()    // K
                       .Ret<ffi::AnyBuffer>()    // means2d
                       .Ret<ffi::AnyBuffer>()    // depths
                       .Ret<ffi::AnyBuffer>()    // conics
                       .Ret<ffi::AnyBuffer>()    // opacities of the splats
                       .Ret<ffi::AnyBuffer>()    // radii
                       .Ret<ffi::AnyBuffer>());  // workspace

JGD_DEFINE_HANDLER(jgd_project_bwd, jgd::backward,
                   ffi::Ffi::Bind()
                       .Ctx<jgd::backend::BindContext>()
                       .Attrs<jgd::ProjectAttributes>()
                       .Arg<ffi::AnyBuffer>()    // means
                       .Arg<ffi::AnyBuffer>()    // quats
                       .Arg<ffi::AnyBuffer>()    // scales
                       .Arg<ffi::AnyBuffer>()    // covars
                       .Arg<ffi::AnyBuffer>()    // opacities
                       .Arg<ffi::AnyBuffer>()    // viewmat
                       .Arg<ffi::AnyBuffer>()    // K
                       .Arg<ffi::AnyBuffer>()    // radii
                       .Arg<ffi::AnyBuffer>()    // v_means2d
                       .Arg<ffi::AnyBuffer>()    // v_depths
                       .Arg<ffi::AnyBuffer>()    // v_conics
                       .Arg<ffi::AnyBuffer>()    // v_splat_opacities
                       .Ret<ffi::AnyBuffer>()    // v_means
                       .Ret<ffi::AnyBuffer>()    // v_quats
                       .Ret<ffi::AnyBuffer>()    // v_scales
                       .Ret<ffi::AnyBuffer>()    // v_covars
                       .Ret<ffi::AnyBuffer>()    // v_opacities
                       .Ret<ffi::AnyBuffer>()    // v_viewmat
                       .Ret<ffi::AnyBuffer>()    // v_K
                       .Ret<ffi::AnyBuffer>());  // workspace
