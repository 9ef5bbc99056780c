// Cuts the Gaussians into ranges for the threads; kernels/project.cc projects a range.
//
// The camera gradients are summed within each range and then over the ranges, so that the order of
// a sum never depends on the number of threads.

#include "cpu/project.h"

#include <algorithm>

#include "cpu/camera_gradient.h"
#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "stages/load.h"

namespace jgd::cpu {
namespace {

constexpr int64_t kGrain = 2048;

template <typename T>
struct Cameras {
  Vector<Pose<T>> poses;
  Vector<Pinhole<T>> pinholes;

  Cameras(const ProjectInputs<T>& in, int64_t b)
      : poses(in.n_cameras, "the cameras"), pinholes(in.n_cameras, "the cameras") {
    for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
      poses[camera] = load_pose(in.viewmat.at(in.batch, b), camera);
      pinholes[camera] = load_pinhole(in.K.at(in.batch, b), camera);
    }
  }
};

template <typename T>
ProjectScene<T> scene_of(const ProjectInputs<T>& in, int64_t b, const Cameras<T>& cameras) {
  ProjectScene<T> scene;
  scene.means = in.means.at(in.batch, b);
  scene.quats = in.quats.at(in.batch, b);
  scene.scales = in.scales.at(in.batch, b);
  scene.covars = in.covars.at(in.batch, b);
  scene.opacities = in.opacities.at(in.batch, b);
  scene.poses = cameras.poses.data();
  scene.pinholes = cameras.pinholes.data();
  scene.n = in.n;
  scene.n_cameras = in.n_cameras;
  scene.settings = in.settings;
  return scene;
}

template <typename T>
void forward_batch_element(ThreadPool& pool, const ProjectForward<T>& args, int64_t b) {
  const ProjectInputs<T>& in = args.in;
  const Cameras<T> cameras(in, b);
  ProjectSceneForward<T> scene;
  scene.in = scene_of(in, b, cameras);
  scene.means2d = args.means2d.at(in.batch, b);
  scene.depths = args.depths.at(in.batch, b);
  scene.conics = args.conics.at(in.batch, b);
  scene.opacities = args.opacities.at(in.batch, b);
  scene.radii = args.radii.at(in.batch, b);
  const auto kernel = kernels<T>().project->forward;
  parallel_for(pool, in.n, kGrain,
               [&](int64_t, int64_t begin, int64_t end) { kernel(scene, begin, end); });
}

template <typename T>
void backward_batch_element(ThreadPool& pool, const ProjectBackward<T>& args, int64_t b) {
  const ProjectInputs<T>& in = args.in;
  const Cameras<T> cameras(in, b);
  ProjectSceneBackward<T> scene;
  scene.in = scene_of(in, b, cameras);
  scene.radii = args.radii.at(in.batch, b);
  scene.v_means2d = args.v_means2d.at(in.batch, b);
  scene.v_depths = args.v_depths.at(in.batch, b);
  scene.v_conics = args.v_conics.at(in.batch, b);
  scene.v_splat_opacities = args.v_splat_opacities.at(in.batch, b);
  scene.v_means = args.v_means.at(in.batch, b);
  scene.v_quats = args.v_quats.at(in.batch, b);
  scene.v_scales = args.v_scales.at(in.batch, b);
  scene.v_covars = args.v_covars.at(in.batch, b);
  scene.v_opacities = args.v_opacities.at(in.batch, b);
  T* v_viewmat = args.v_viewmat.at(in.batch, b);
  T* v_K = args.v_K.at(in.batch, b);
  const auto kernel = kernels<T>().project->backward;

  const int64_t n_ranges = (in.n + kGrain - 1) / kGrain;
  Vector<CameraGradient> partial(v_viewmat || v_K ? n_ranges * in.n_cameras : 0,
                                 "the gradients of the cameras");
  parallel_for(pool, n_ranges, 1, [&](int64_t, int64_t range_begin, int64_t range_end) {
    for (int64_t range = range_begin; range < range_end; ++range) {
      const int64_t begin = range * kGrain;
      kernel(scene, begin, std::min(in.n, begin + kGrain),
             partial.empty() ? nullptr : &partial[range * in.n_cameras]);
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
