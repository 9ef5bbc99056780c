// One Gaussian at a time; a range of Gaussians is the unit of work and of the partial sums of the
// camera gradients, so that their order never depends on the number of threads.

#include "cpu/project.h"

#include <vector>

#include "cpu/camera_gradient.h"
#include "stages/load.h"

namespace jgd::cpu {
namespace {

constexpr int64_t kGrain = 512;

// One batch element of ProjectInputs.
template <typename T>
struct Scene {
  const T* means;
  const T* quats;
  const T* scales;
  const T* covars;
  const T* opacities;
  const T* viewmat;
  const T* K;

  Scene(const ProjectInputs<T>& in, int64_t b)
      : means(in.means.at(in.batch, b)),
        quats(in.quats.at(in.batch, b)),
        scales(in.scales.at(in.batch, b)),
        covars(in.covars.at(in.batch, b)),
        opacities(in.opacities.at(in.batch, b)),
        viewmat(in.viewmat.at(in.batch, b)),
        K(in.K.at(in.batch, b)) {}

  // Whether Gaussian i has a covariance at all; writes it.
  bool covariance_of(int64_t i, Sym3<T>& cov3d) const {
    if (covars) {
      cov3d = load_sym3(covars, i);
      return true;
    }
    const Quat<T> q = load_quat(quats, i);
    const Vec3<T> s = load_vec3(scales, i);
    if (!valid_quat_scale(q, s)) return false;
    cov3d = covariance(q, s);
    return true;
  }
};

template <typename T>
void forward_batch_element(ThreadPool& pool, const ProjectForward<T>& args, int64_t b) {
  const ProjectInputs<T>& in = args.in;
  const Scene<T> scene(in, b);
  T* means2d = args.means2d.at(in.batch, b);
  T* depths = args.depths.at(in.batch, b);
  T* conics = args.conics.at(in.batch, b);
  T* opacities = args.opacities.at(in.batch, b);
  int32_t* radii = args.radii.at(in.batch, b);
  parallel_for(pool, in.n, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
      const Pose<T> pose = load_pose(scene.viewmat, camera);
      const Pinhole<T> K = load_pinhole(scene.K, camera);
      for (int64_t i = begin; i < end; ++i) {
        Sym3<T> cov3d;
        Projected<T> p{};
        // project_gaussian asks too, but the covariance is half of the work.
        if (opacity_visible(scene.opacities[i], in.settings) && scene.covariance_of(i, cov3d)) {
          p = project_gaussian(load_vec3(scene.means, i), cov3d, scene.opacities[i], pose, K,
                               in.settings);
        }
        const int64_t j = camera * in.n + i;
        store_vec2(means2d, j, p.mean2d);
        depths[j] = p.depth;
        store_sym2(conics, j, p.conic);
        opacities[j] = p.opacity;
        radii[j] = p.radius;
      }
    }
  });
}

template <typename T>
void backward_batch_element(ThreadPool& pool, const ProjectBackward<T>& args, int64_t b) {
  const ProjectInputs<T>& in = args.in;
  const Scene<T> scene(in, b);
  const int32_t* radii = args.radii.at(in.batch, b);
  const T* v_means2d = args.v_means2d.at(in.batch, b);
  const T* v_depths = args.v_depths.at(in.batch, b);
  const T* v_conics = args.v_conics.at(in.batch, b);
  const T* v_splat_opacities = args.v_splat_opacities.at(in.batch, b);
  T* v_means = args.v_means.at(in.batch, b);
  T* v_quats = args.v_quats.at(in.batch, b);
  T* v_scales = args.v_scales.at(in.batch, b);
  T* v_covars = args.v_covars.at(in.batch, b);
  T* v_opacities = args.v_opacities.at(in.batch, b);
  T* v_viewmat = args.v_viewmat.at(in.batch, b);
  T* v_K = args.v_K.at(in.batch, b);

  const int64_t n_ranges = (in.n + kGrain - 1) / kGrain;
  const bool wants_camera = v_viewmat || v_K;
  std::vector<CameraGradient> partial(wants_camera ? n_ranges * in.n_cameras : 0);
  parallel_for(pool, n_ranges, 1, [&](int64_t, int64_t range_begin, int64_t range_end) {
    for (int64_t range = range_begin; range < range_end; ++range) {
      const int64_t begin = range * kGrain;
      const int64_t end = std::min(in.n, begin + kGrain);
      const auto clear = [&](T* data, int64_t width) {
        if (data) std::fill(data + begin * width, data + end * width, T(0));
      };
      clear(v_means, 3);
      clear(v_quats, 4);
      clear(v_scales, 3);
      clear(v_covars, 6);
      clear(v_opacities, 1);
      for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
        const Pose<T> pose = load_pose(scene.viewmat, camera);
        const Pinhole<T> K = load_pinhole(scene.K, camera);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t j = camera * in.n + i;
          Sym3<T> cov3d;
          if (radii[j] <= 0 || !scene.covariance_of(i, cov3d)) continue;
          ProjectedGrad<T> v{};
          if (v_means2d) v.mean2d = load_vec2(v_means2d, j);
          if (v_depths) v.depth = v_depths[j];
          if (v_conics) v.conic = load_sym2(v_conics, j);
          if (v_splat_opacities) v.opacity = v_splat_opacities[j];
          Vec3<T> v_mean;
          Sym3<T> v_cov3d;
          T v_opacity;
          Pose<T> v_pose;
          Pinhole<T> v_pinhole;
          project_gaussian_vjp(load_vec3(scene.means, i), cov3d, scene.opacities[i], pose, K,
                               in.settings, v, v_mean, v_cov3d, v_opacity, v_pose, v_pinhole);
          if (v_means) add_vec3(v_means, i, v_mean);
          if (v_opacities) v_opacities[i] += v_opacity;
          if (v_covars) add_sym3(v_covars, i, v_cov3d);
          if (v_quats || v_scales) {
            Quat<T> v_quat;
            Vec3<T> v_scale;
            covariance_vjp(load_quat(scene.quats, i), load_vec3(scene.scales, i), v_cov3d, v_quat,
                           v_scale);
            if (v_quats) add_quat(v_quats, i, v_quat);
            if (v_scales) add_vec3(v_scales, i, v_scale);
          }
          if (wants_camera) {
            partial[range * in.n_cameras + camera].add(v_pose);
            partial[range * in.n_cameras + camera].add(v_pinhole);
          }
        }
      }
    }
  });
  for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
    const CameraGradient sum = sum_over_ranges(partial, in.n_cameras, camera);
    if (v_viewmat) sum.store_viewmat(v_viewmat, camera);
    if (v_K) sum.store_K(v_K, camera);
  }
}

}  // namespace

template <typename T>
void project_forward(ThreadPool& pool, const ProjectForward<T>& args) {
  for (int64_t b = 0; b < args.in.batch.count(); ++b) forward_batch_element(pool, args, b);
}

template <typename T>
void project_backward(ThreadPool& pool, const ProjectBackward<T>& args) {
  for (int64_t b = 0; b < args.in.batch.count(); ++b) backward_batch_element(pool, args, b);
}

#define JGD_INSTANTIATE(T)                                                   \
  template void project_forward<T>(ThreadPool&, const ProjectForward<T>&);   \
  template void project_backward<T>(ThreadPool&, const ProjectBackward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cpu
