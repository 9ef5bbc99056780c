// Projects Gaussians to splats, with the same formulas as the CPU (math/projection.h).

#include "cuda/camera_gradient.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/project.h"
#include "cuda/workspace.h"
#include "stages/load.h"

namespace jgd::cuda {
namespace {

constexpr int kForwardThreads = 256;

// A Gaussian, in the form that all cameras share.
template <typename T>
struct Gaussian {
  Vec3<T> mean;
  Sym3<T> cov3d;
  T opacity;
};

// Loads Gaussian i of batch element b; returns whether it has a covariance at all.
template <typename T>
__device__ bool load_gaussian(const ProjectInputs<T>& in, int64_t b, int64_t i, Gaussian<T>& g) {
  if (in.covars.data) {
    g.cov3d = load_sym3(in.covars.at(in.batch, b), i);
  } else {
    const Quat<T> q = load_quat(in.quats.at(in.batch, b), i);
    const Vec3<T> s = load_vec3(in.scales.at(in.batch, b), i);
    if (!valid_quat_scale(q, s)) return false;
    g.cov3d = covariance(q, s);
  }
  g.mean = load_vec3(in.means.at(in.batch, b), i);
  g.opacity = in.opacities.at(in.batch, b)[i];
  return true;
}

// One thread for each (batch, camera, Gaussian); the threads of a block share batch and camera.
template <typename T>
__global__ void forward_kernel(ProjectForward<T> args, int64_t blocks) {
  const ProjectInputs<T>& in = args.in;
  const int64_t image = block_index() / blocks;
  const int64_t i = (block_index() % blocks) * kForwardThreads + thread_in_block();
  if (i >= in.n) return;
  const int64_t b = image / in.n_cameras, camera = image % in.n_cameras;
  Gaussian<T> g;
  Projected<T> p{};
  if (load_gaussian(in, b, i, g)) {
    p = project_gaussian(g.mean, g.cov3d, g.opacity, load_pose(in.viewmat.at(in.batch, b), camera),
                         load_pinhole(in.K.at(in.batch, b), camera), in.settings);
  }
  const int64_t j = camera * in.n + i;
  store_vec2(args.means2d.at(in.batch, b), j, p.mean2d);
  args.depths.at(in.batch, b)[j] = p.depth;
  store_sym2(args.conics.at(in.batch, b), j, p.conic);
  args.opacities.at(in.batch, b)[j] = p.opacity;
  args.radii.at(in.batch, b)[j] = p.radius;
}

// One thread for each (batch, Gaussian), which adds the cameras in their order in registers.
// `partial` is null if no gradient of a camera is wanted. Registers limit how many blocks a
// multiprocessor runs: 4 are possible without spills.
template <typename T>
__global__ void __launch_bounds__(kCameraGradientThreads<T>, 4)
    backward_kernel(ProjectBackward<T> args, T* partial, int64_t blocks) {
  const ProjectInputs<T>& in = args.in;
  const int64_t b = block_index() / blocks, block = block_index() % blocks;
  const int64_t i = block * kCameraGradientThreads<T> + thread_in_block();
  const int32_t* radii = args.radii.at(in.batch, b);
  const T* v_means2d = args.v_means2d.at(in.batch, b);
  const T* v_depths = args.v_depths.at(in.batch, b);
  const T* v_conics = args.v_conics.at(in.batch, b);
  const T* v_splat_opacities = args.v_splat_opacities.at(in.batch, b);
  const T* viewmat = in.viewmat.at(in.batch, b);
  const T* K = in.K.at(in.batch, b);

  const bool exists = i < in.n;
  Gaussian<T> g;
  const bool has_covariance = exists && load_gaussian(in, b, i, g);
  const bool wants_shape = args.v_quats.data || args.v_scales.data;
  Gaussian<T> sum{};
  Quat<T> v_quat{};
  Vec3<T> v_scale{};
  for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
    const int64_t j = camera * in.n + i;
    CameraTerm<T> term;
    if (has_covariance && radii[j] > 0) {
      ProjectedGrad<T> v{};
      if (v_means2d) v.mean2d = load_vec2(v_means2d, j);
      if (v_depths) v.depth = v_depths[j];
      if (v_conics) v.conic = load_sym2(v_conics, j);
      if (v_splat_opacities) v.opacity = v_splat_opacities[j];
      Gaussian<T> v_g;
      Pose<T> v_pose;
      Pinhole<T> v_pinhole;
      project_gaussian_vjp(g.mean, g.cov3d, g.opacity, load_pose(viewmat, camera),
                           load_pinhole(K, camera), in.settings, v, v_g.mean, v_g.cov3d,
                           v_g.opacity, v_pose, v_pinhole);
      sum.mean += v_g.mean;
      sum.cov3d += v_g.cov3d;
      sum.opacity += v_g.opacity;
      if (wants_shape) {
        Quat<T> v_q;
        Vec3<T> v_s;
        covariance_vjp(load_quat(in.quats.at(in.batch, b), i),
                       load_vec3(in.scales.at(in.batch, b), i), v_g.cov3d, v_q, v_s);
        v_quat += v_q;
        v_scale += v_s;
      }
      term.set(v_pose);
      term.set(v_pinhole);
    }
    if (partial) {
      const int64_t row = (b * in.n_cameras + camera) * blocks + block;
      store_block_sum(term, camera, shared_memory<T>(), partial + row * kCameraGradientSize);
    }
  }
  if (!exists) return;

  if (args.v_means.data) store_vec3(args.v_means.at(in.batch, b), i, sum.mean);
  if (args.v_opacities.data) args.v_opacities.at(in.batch, b)[i] = sum.opacity;
  if (args.v_covars.data) store_sym3(args.v_covars.at(in.batch, b), i, sum.cov3d);
  if (args.v_quats.data) store_quat(args.v_quats.at(in.batch, b), i, v_quat);
  if (args.v_scales.data) store_vec3(args.v_scales.at(in.batch, b), i, v_scale);
}

}  // namespace

template <typename T>
void project_forward(Context& context, const ProjectForward<T>& args) {
  const ProjectInputs<T>& in = args.in;
  const int64_t blocks = n_blocks(in.n, kForwardThreads);
  launch(context, "project", forward_kernel<T>, in.batch.count() * in.n_cameras * blocks,
         kForwardThreads, 0, args, blocks);
}

template <typename T>
void project_backward(Context& context, const ProjectBackward<T>& args) {
  const ProjectInputs<T>& in = args.in;
  const CallSizes sizes = CallSizes::of(in);
  Workspace w = args.workspace;
  const CameraGradientArrays<T> arrays(w, sizes);
  if (!context.require(w.fits(), "workspace is too small")) return;
  const bool wants_camera = args.v_viewmat.data || args.v_K.data;
  const int64_t blocks = arrays.n_camera_gradient_blocks(in.n);
  launch(context, "project backward", backward_kernel<T>, sizes.n_batch * blocks,
         kCameraGradientThreads<T>, wants_camera ? kBlockSumSize<T> * sizeof(T) : 0, args,
         wants_camera ? arrays.partial : nullptr, blocks);
  CameraOutputs<T> out;
  out.batch = in.batch;
  out.n_cameras = in.n_cameras;
  out.v_viewmat = args.v_viewmat;
  out.v_K = args.v_K;
  store_camera_gradient(context, arrays.partial, blocks, out);
}

#define JGD_INSTANTIATE(T)                                                \
  template void project_forward<T>(Context&, const ProjectForward<T>&);   \
  template void project_backward<T>(Context&, const ProjectBackward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cuda
