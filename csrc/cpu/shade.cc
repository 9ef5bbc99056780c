// Cuts the Gaussians into ranges for the threads; kernels/shade.cc shades a range for all cameras.
//
// Work and sums are divided as in project.cc.

#include "cpu/shade.h"

#include <algorithm>

#include "cpu/camera_gradient.h"
#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "stages/load.h"

namespace jgd::cpu {
namespace {

constexpr int64_t kGrain = 1024;

template <typename T>
Vector<Vec3<T>> camera_centers(const ShadeInputs<T>& in, int64_t b) {
  Vector<Vec3<T>> centers(in.n_cameras, "the cameras");
  for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
    centers[camera] = camera_center(load_pose(in.viewmat.at(in.batch, b), camera));
  }
  return centers;
}

template <typename T>
ShadeScene<T> scene_of(const ShadeInputs<T>& in, int64_t b, const Vector<Vec3<T>>& centers) {
  ShadeScene<T> scene;
  scene.means = in.means.at(in.batch, b);
  scene.sh = in.sh.at(in.batch, b);
  scene.radii = in.radii.at(in.batch, b);
  scene.centers = centers.data();
  scene.n = in.n;
  scene.n_bases = in.n_bases;
  scene.n_cameras = in.n_cameras;
  scene.convention = in.convention;
  return scene;
}

template <typename T>
void forward_batch_element(ThreadPool& pool, const ShadeForward<T>& args, int64_t b) {
  const ShadeInputs<T>& in = args.in;
  const Vector<Vec3<T>> centers = camera_centers(in, b);
  ShadeSceneForward<T> scene;
  scene.in = scene_of(in, b, centers);
  scene.colors = args.colors.at(in.batch, b);
  const auto kernel = kernels<T>().shade->forward[in.degree];
  parallel_for(pool, in.n, kGrain,
               [&](int64_t, int64_t begin, int64_t end) { kernel(scene, begin, end); });
}

// Writes the gradient of a camera from the gradients of the offsets from its centre, which are
// added in the order of the ranges.
template <typename T>
void store_camera_gradient(const ShadeInputs<T>& in, int64_t b, int64_t camera,
                           const Vector<Vec3<double>>& partial, T* v_viewmat) {
  Vec3<double> v_center{};
  for (size_t i = camera; i < partial.size(); i += in.n_cameras) v_center = v_center - partial[i];
  const Pose<T> pose = load_pose(in.viewmat.at(in.batch, b), camera);
  Pose<double> wide{{}, {pose.t.x, pose.t.y, pose.t.z}};
  for (int i = 0; i < 9; ++i) wide.R.m[i] = pose.R.m[i];
  CameraGradient gradient;
  // A camera that is not finite draws nothing; 0 times its pose would be NaN.
  const bool drawn = v_center.x != 0 || v_center.y != 0 || v_center.z != 0;
  if (drawn) gradient.add(camera_center_vjp(wide, v_center));
  gradient.store_viewmat(v_viewmat, camera);
}

template <typename T>
void backward_batch_element(ThreadPool& pool, const ShadeBackward<T>& args, int64_t b) {
  const ShadeInputs<T>& in = args.in;
  const Vector<Vec3<T>> centers = camera_centers(in, b);
  ShadeSceneBackward<T> scene;
  scene.in = scene_of(in, b, centers);
  scene.v_colors = args.v_colors.at(in.batch, b);
  scene.v_means = args.v_means.at(in.batch, b);
  scene.v_sh = args.v_sh.at(in.batch, b);
  T* v_viewmat = args.v_viewmat.at(in.batch, b);
  const auto kernel = kernels<T>().shade->backward[in.degree];

  const int64_t n_ranges = (in.n + kGrain - 1) / kGrain;
  Vector<Vec3<double>> partial(v_viewmat ? n_ranges * in.n_cameras : 0,
                               "the gradients of the cameras");
  parallel_for(pool, n_ranges, 1, [&](int64_t, int64_t range_begin, int64_t range_end) {
    for (int64_t range = range_begin; range < range_end; ++range) {
      const int64_t begin = range * kGrain;
      kernel(scene, begin, std::min(in.n, begin + kGrain),
             partial.empty() ? nullptr : &partial[range * in.n_cameras]);
    }
  });
  if (!v_viewmat) return;
  for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
    store_camera_gradient(in, b, camera, partial, v_viewmat);
  }
}

}  // namespace

template <typename T>
void shade_forward(ThreadPool& pool, const ShadeForward<T>& args) {
  for (int64_t b = 0; b < args.in.batch.count(); ++b) forward_batch_element(pool, args, b);
}

template <typename T>
void shade_backward(ThreadPool& pool, const ShadeBackward<T>& args) {
  for (int64_t b = 0; b < args.in.batch.count(); ++b) backward_batch_element(pool, args, b);
}

#define JGD_INSTANTIATE(T)                                               \
  template void shade_forward<T>(ThreadPool&, const ShadeForward<T>&);   \
  template void shade_backward<T>(ThreadPool&, const ShadeBackward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cpu
