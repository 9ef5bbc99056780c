// Colours of all Gaussians for all cameras. Same division of work and of sums as project.cc.

#include "cpu/shade.h"

#include <vector>

#include "cpu/camera_gradient.h"
#include "math/sh.h"
#include "stages/load.h"

namespace jgd::cpu {
namespace {

constexpr int64_t kGrain = 512;

template <typename T>
void forward_batch_element(ThreadPool& pool, const ShadeForward<T>& args, int64_t b) {
  const ShadeInputs<T>& in = args.in;
  const T* means = in.means.at(in.batch, b);
  const T* sh = in.sh.at(in.batch, b);
  const T* viewmat = in.viewmat.at(in.batch, b);
  const int32_t* radii = in.radii.at(in.batch, b);
  T* colors = args.colors.at(in.batch, b);
  parallel_for(pool, in.n, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
      const Vec3<T> center = camera_center(load_pose(viewmat, camera));
      for (int64_t i = begin; i < end; ++i) {
        if (radii && radii[camera * in.n + i] <= 0) {
          store_vec3(colors, camera * in.n + i, Vec3<T>{});
          continue;
        }
        const T* coefficients = sh + 3 * in.n_bases * i;
        Vec3<T> color{kNaN<T>, kNaN<T>, kNaN<T>};
        if (all_finite(coefficients, 3 * sh_bases(in.degree))) {
          color = sh_color(in.degree, coefficients, load_vec3(means, i) - center, in.convention);
        }
        store_vec3(colors, camera * in.n + i, color);
      }
    }
  });
}

template <typename T>
void backward_batch_element(ThreadPool& pool, const ShadeBackward<T>& args, int64_t b) {
  const ShadeInputs<T>& in = args.in;
  const T* means = in.means.at(in.batch, b);
  const T* sh = in.sh.at(in.batch, b);
  const T* viewmat = in.viewmat.at(in.batch, b);
  const int32_t* radii = in.radii.at(in.batch, b);
  const T* v_colors = args.v_colors.at(in.batch, b);
  T* v_means = args.v_means.at(in.batch, b);
  T* v_sh = args.v_sh.at(in.batch, b);
  T* v_viewmat = args.v_viewmat.at(in.batch, b);

  const int n_used = 3 * sh_bases(in.degree);
  const int64_t n_ranges = (in.n + kGrain - 1) / kGrain;
  std::vector<CameraGradient> partial(v_viewmat ? n_ranges * in.n_cameras : 0);
  parallel_for(pool, n_ranges, 1, [&](int64_t, int64_t range_begin, int64_t range_end) {
    for (int64_t range = range_begin; range < range_end; ++range) {
      const int64_t begin = range * kGrain;
      const int64_t end = std::min(in.n, begin + kGrain);
      if (v_means) std::fill(v_means + 3 * begin, v_means + 3 * end, T(0));
      if (v_sh) {
        std::fill(v_sh + 3 * in.n_bases * begin, v_sh + 3 * in.n_bases * end, T(0));
      }
      for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
        const Pose<T> pose = load_pose(viewmat, camera);
        const Vec3<T> center = camera_center(pose);
        for (int64_t i = begin; i < end; ++i) {
          if (radii && radii[camera * in.n + i] <= 0) continue;
          const Vec3<T> v_color = load_vec3(v_colors, camera * in.n + i);
          // Not drawn, possibly because something is not finite: 0 times that must not get through.
          if (v_color.x == T(0) && v_color.y == T(0) && v_color.z == T(0)) continue;
          const T* coefficients = sh + 3 * in.n_bases * i;
          if (!all_finite(coefficients, n_used)) continue;
          T v_coefficients[3 * sh_bases(kMaxShDegree)];
          Vec3<T> v_offset;
          sh_color_vjp(in.degree, coefficients, load_vec3(means, i) - center, in.convention,
                       v_color, v_coefficients, v_offset);
          if (v_sh) {
            T* v = v_sh + 3 * in.n_bases * i;
            for (int k = 0; k < n_used; ++k) v[k] += v_coefficients[k];
          }
          if (v_means) add_vec3(v_means, i, v_offset);
          if (v_viewmat) {
            partial[range * in.n_cameras + camera].add(camera_center_vjp(pose, T(-1) * v_offset));
          }
        }
      }
    }
  });
  if (!v_viewmat) return;
  for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
    sum_over_ranges(partial, in.n_cameras, camera).store_viewmat(v_viewmat, camera);
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
