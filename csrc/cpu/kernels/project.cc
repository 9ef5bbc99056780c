// Projects Gaussians to splats, kLanes at a time; a pack of them is loaded once for all cameras.

#include "cpu/kernels/project.h"

#include "cpu/simd/pack.h"
#include "cpu/simd/pack_arrays.h"
#include "math/quat.h"

namespace jgd::cpu::JGD_ISA {
namespace {

// A pack of Gaussians, in the form that all cameras share.
template <typename T>
struct Gaussians {
  Vec3<Pack<T>> mean;
  Quat<Pack<T>> quat;
  Vec3<Pack<T>> scale;
  Sym3<Pack<T>> cov3d;
  PackMask<T> valid;  // lanes that have a covariance at all

  Gaussians(const ProjectScene<T>& in, int64_t i, int n)
      : mean(load_vec3(in.means, i, n)), valid(PackMask<T>::all()) {
    if (in.covars) {
      cov3d = load_sym3(in.covars, i, n);
      return;
    }
    quat = load_quat(in.quats, i, n);
    scale = load_vec3(in.scales, i, n);
    valid = valid_quat_scale(quat, scale);
    cov3d = covariance(quat, scale);
  }
};

template <typename T>
ProjectionSettings<Pack<T>> broadcast(const ProjectionSettings<T>& s) {
  ProjectionSettings<Pack<T>> settings;
  settings.near_plane = s.near_plane;
  settings.far_plane = s.far_plane;
  settings.eps2d = s.eps2d;
  settings.width = s.width;
  settings.height = s.height;
  settings.antialiased = s.antialiased;
  settings.three_sigma = s.three_sigma;
  settings.keep_outside = s.keep_outside;
  return settings;
}

template <typename T>
Pinhole<Pack<T>> broadcast(const Pinhole<T>& K) {
  return {K.fx, K.fy, K.cx, K.cy};
}

template <typename T>
Pose<Pack<T>> broadcast(const Pose<T>& pose) {
  Pose<Pack<T>> p{{}, {pose.t.x, pose.t.y, pose.t.z}};
  for (int i = 0; i < 9; ++i) p.R.m[i] = pose.R.m[i];
  return p;
}

template <typename T>
void store(const ProjectSceneForward<T>& args, int64_t j, int n, const Projected<Pack<T>>& p) {
  store_vec2(args.means2d, j, n, p.mean2d);
  store(args.depths, j, n, p.depth);
  store_sym2(args.conics, j, n, p.conic);
  store(args.opacities, j, n, p.opacity);
  store_int(args.radii, j, n, p.radius);
}

template <typename T>
void forward(const ProjectSceneForward<T>& args, int64_t begin, int64_t end) {
  const ProjectScene<T>& in = args.in;
  const ProjectionSettings<Pack<T>> settings = broadcast(in.settings);
  for (int64_t i = begin; i < end; i += Simd<T>::kLanes) {
    const int n = pack_size<T>(i, end);
    const Pack<T> opacity = load(in.opacities, i, n);
    // project_gaussian tests this too, but the loads and the covariance are half of the work.
    if (none_of(opacity_visible(opacity, settings))) {
      for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
        store(args, camera * in.n + i, n, Projected<Pack<T>>{});
      }
      continue;
    }
    const Gaussians<T> g(in, i, n);
    const Pack<T> opacity_if_valid = select(g.valid, opacity, kNaN<T>);  // NaN culls
    for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
      store(args, camera * in.n + i, n,
            project_gaussian(g.mean, g.cov3d, opacity_if_valid, broadcast(in.poses[camera]),
                             broadcast(in.pinholes[camera]), settings));
    }
  }
}

template <typename T>
ProjectedGrad<Pack<T>> load_cotangents(const ProjectSceneBackward<T>& args, int64_t j, int n) {
  ProjectedGrad<Pack<T>> v{};
  if (args.v_means2d) v.mean2d = load_vec2(args.v_means2d, j, n);
  if (args.v_depths) v.depth = load(args.v_depths, j, n);
  if (args.v_conics) v.conic = load_sym2(args.v_conics, j, n);
  if (args.v_splat_opacities) v.opacity = load(args.v_splat_opacities, j, n);
  return v;
}

// Gradients of a pack of Gaussians, summed over cameras in their order. A culled Gaussian adds 0.
template <typename T>
struct GaussianGradients {
  Vec3<Pack<T>> mean{};
  Quat<Pack<T>> quat{};
  Vec3<Pack<T>> scale{};
  Sym3<Pack<T>> cov3d{};
  Pack<T> opacity{};

  void store(const ProjectSceneBackward<T>& args, int64_t i, int n) const {
    if (args.v_means) store_vec3(args.v_means, i, n, mean);
    if (args.v_quats) store_quat(args.v_quats, i, n, quat);
    if (args.v_scales) store_vec3(args.v_scales, i, n, scale);
    if (args.v_covars) store_sym3(args.v_covars, i, n, cov3d);
    if (args.v_opacities) JGD_ISA::store(args.v_opacities, i, n, opacity);
  }
};

// Adds the gradients in the lanes of `mask`: the lanes of a pack are summed in T, packs in double.
template <typename T>
void add(CameraGradient& sum, PackMask<T> mask, const Pose<Pack<T>>& v_pose,
         const Pinhole<Pack<T>>& v_K) {
  const Mat3<Pack<T>>& R = v_pose.R;
  const Pack<T> all[] = {R.m[0], R.m[1], R.m[2], R.m[3],     R.m[4],     R.m[5],
                         R.m[6], R.m[7], R.m[8], v_pose.t.x, v_pose.t.y, v_pose.t.z,
                         v_K.fx, v_K.fy, v_K.cx, v_K.cy};
  typename Pack<T>::V v[16];
  for (int i = 0; i < 16; ++i) v[i] = select(mask, all[i], Pack<T>(0)).v;
  T sums[16];
  store_sums(sums, v);
  for (int i = 0; i < 9; ++i) sum.R[i] += sums[i];
  for (int i = 0; i < 3; ++i) sum.t[i] += sums[9 + i];
  for (int i = 0; i < 4; ++i) sum.K[i] += sums[12 + i];
}

template <typename T>
void backward(const ProjectSceneBackward<T>& args, int64_t begin, int64_t end,
              CameraGradient* cameras) {
  const ProjectScene<T>& in = args.in;
  const ProjectionSettings<Pack<T>> settings = broadcast(in.settings);
  const Pack<T> zero(0);
  const Vec3<Pack<T>> zero3{zero, zero, zero};
  const Quat<Pack<T>> zero4{zero, zero, zero, zero};
  for (int64_t i = begin; i < end; i += Simd<T>::kLanes) {
    const int n = pack_size<T>(i, end);
    const auto visible = [&](int64_t camera) {
      return load_int<T>(args.radii, camera * in.n + i, n) > PackInt<T>(0);
    };
    GaussianGradients<T> sum;
    int64_t camera = 0;
    while (camera < in.n_cameras && none_of(visible(camera))) ++camera;
    if (camera == in.n_cameras) {
      sum.store(args, i, n);
      continue;
    }
    const Gaussians<T> g(in, i, n);
    const Pack<T> opacity = load(in.opacities, i, n);
    for (; camera < in.n_cameras; ++camera) {
      const PackMask<T> drawn = visible(camera) && g.valid;
      if (none_of(drawn)) continue;
      Vec3<Pack<T>> v_mean;
      Sym3<Pack<T>> v_cov3d;
      Pack<T> v_opacity;
      Pose<Pack<T>> v_pose;
      Pinhole<Pack<T>> v_K;
      project_gaussian_vjp(g.mean, g.cov3d, opacity, broadcast(in.poses[camera]),
                           broadcast(in.pinholes[camera]), settings,
                           load_cotangents(args, camera * in.n + i, n), v_mean, v_cov3d, v_opacity,
                           v_pose, v_K);
      sum.mean += select(drawn, v_mean, zero3);
      sum.opacity += select(drawn, v_opacity, zero);
      if (args.v_covars) sum.cov3d += select(drawn, v_cov3d, Sym3<Pack<T>>{});
      if (args.v_quats || args.v_scales) {
        Quat<Pack<T>> v_quat;
        Vec3<Pack<T>> v_scale;
        covariance_vjp(g.quat, g.scale, v_cov3d, v_quat, v_scale);
        sum.quat += select(drawn, v_quat, zero4);
        sum.scale += select(drawn, v_scale, zero3);
      }
      if (cameras) add(cameras[camera], drawn, v_pose, v_K);
    }
    sum.store(args, i, n);
  }
}

}  // namespace

extern const ProjectKernels<float> kProjectFloat;
extern const ProjectKernels<double> kProjectDouble;
const ProjectKernels<float> kProjectFloat{forward<float>, backward<float>};
const ProjectKernels<double> kProjectDouble{forward<double>, backward<double>};

}  // namespace jgd::cpu::JGD_ISA
