// Shades all Gaussians for all cameras, with the same formulas as the CPU (math/sh.h).

#include <type_traits>

#include "cuda/camera_gradient.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/shade.h"
#include "cuda/workspace.h"
#include "math/constants.h"
#include "math/sh.h"
#include "stages/load.h"

namespace jgd::cuda {
namespace {

template <typename T>
constexpr int kThreads = kCameraGradientThreads<T>;  // Gaussians of a block

template <int kDegree>
constexpr int kUsed = 3 * sh_bases(kDegree);  // coefficients of a Gaussian

// The length of a row of coefficients in shared memory, a row for each Gaussian of a block. It is
// odd, so that threads that read the same coefficient of their rows use different banks.
template <int kDegree>
constexpr int kPitch = kUsed<kDegree> | 1;

template <typename T, int kDegree>
constexpr int64_t kTileValues = int64_t{kThreads<T>} * kPitch<kDegree>;

// Copies the coefficients in use of `rows` >= 1 Gaussians, which are `stride` apart. Neighbouring
// threads load neighbouring values. Rows that do not exist get copies of the last one: without a
// condition the compiler starts all loads of a chunk before it waits for the first.
template <int kDegree, typename T>
__device__ void load_tile(const T* sh, int64_t rows, int64_t stride, T* tile) {
  const int last = rows < kThreads<T> ? static_cast<int>(rows) - 1 : kThreads<T> - 1;
  constexpr int kChunk = 3 * (kDegree + 1);
  JGD_NO_UNROLL
  for (int chunk = 0; chunk < kUsed<kDegree>; chunk += kChunk) {
    JGD_UNROLL
    for (int i = 0; i < kChunk; ++i) {
      const int k = (chunk + i) * kThreads<T> + thread_in_block();
      const int row = k / kUsed<kDegree>, column = k % kUsed<kDegree>;
      tile[row * kPitch<kDegree> + column] = sh[min(row, last) * stride + column];
    }
  }
  sync_block();
}

// Copies the tile to `rows` rows of `width`; columns that the tile lacks become 0.
template <int kDegree, typename T>
__device__ void store_tile(const T* tile, int64_t rows, int width, T* sh) {
  sync_block();
  const int n_rows = static_cast<int>(min(rows, int64_t{kThreads<T>}));
  const int row_step = kThreads<T> / width, column_step = kThreads<T> % width;
  int row = thread_in_block() / width, column = thread_in_block() % width;
  while (row < n_rows) {
    sh[int64_t{row} * width + column] =
        column < kUsed<kDegree> ? tile[row * kPitch<kDegree> + column] : T(0);
    row += row_step;
    column += column_step;
    if (column >= width) {
      column -= width;
      ++row;
    }
  }
}

// One thread for each (batch, camera, Gaussian); the threads of a block share batch and camera. A
// block without a drawn Gaussian loads nothing. Shared memory: the tile.
template <typename T, int kDegree>
__global__ void forward_kernel(ShadeForward<T> args, int64_t blocks) {
  const ShadeInputs<T>& in = args.in;
  const int64_t image = block_index() / blocks;
  const int64_t b = image / in.n_cameras, camera = image % in.n_cameras;
  const int64_t first = (block_index() % blocks) * kThreads<T>;
  const int64_t i = first + thread_in_block();
  const int64_t stride = 3 * in.n_bases;
  T* tile = shared_memory<T>();
  const int32_t* radii = in.radii.at(in.batch, b);
  const bool drawn = i < in.n && (!radii || radii[camera * in.n + i] > 0);
  const bool any_drawn = sync_block_any(drawn);
  if (any_drawn) {
    load_tile<kDegree>(in.sh.at(in.batch, b) + first * stride, in.n - first, stride, tile);
  }
  if (i >= in.n) return;
  if (!drawn) {
    store_vec3(args.colors.at(in.batch, b), camera * in.n + i, Vec3<T>{});
    return;
  }

  const T* coefficients = tile + thread_in_block() * kPitch<kDegree>;
  const Vec3<T> center = camera_center(load_pose(in.viewmat.at(in.batch, b), camera));
  Vec3<T> color{kNaN<T>, kNaN<T>, kNaN<T>};
  if (all_finite(coefficients, kUsed<kDegree>)) {
    const Vec3<T> mean = load_vec3(in.means.at(in.batch, b), i);
    color = sh_color_of_degree<kDegree>(coefficients, mean - center, in.convention);
  }
  store_vec3(args.colors.at(in.batch, b), camera * in.n + i, color);
}

// One thread for each (batch, Gaussian), which adds the cameras in their order in registers.
// `partial` is null if no gradient of a camera is wanted. Shared memory: the tile, which holds the
// coefficients and in the end their gradients, a row for each thread; and that of store_block_sum.
template <typename T, int kDegree>
__global__ void backward_kernel(ShadeBackward<T> args, T* partial, int64_t blocks) {
  const ShadeInputs<T>& in = args.in;
  const int64_t b = block_index() / blocks, block = block_index() % blocks;
  const int64_t first = block * kThreads<T>;
  const int64_t i = first + thread_in_block();
  const int64_t stride = 3 * in.n_bases;
  T* tile = shared_memory<T>();
  const bool exists = i < in.n;
  const int32_t* radii = in.radii.at(in.batch, b);
  const auto drawn_by = [&](int64_t camera) { return !radii || radii[camera * in.n + i] > 0; };
  bool drawn = false;
  for (int64_t camera = 0; exists && camera < in.n_cameras; ++camera) drawn |= drawn_by(camera);
  if (sync_block_any(drawn)) {
    load_tile<kDegree>(in.sh.at(in.batch, b) + first * stride, in.n - first, stride, tile);
  }

  const T* v_colors = args.v_colors.at(in.batch, b);
  const T* viewmat = in.viewmat.at(in.batch, b);
  T* coefficients = tile + thread_in_block() * kPitch<kDegree>;
  const bool usable = drawn && all_finite(coefficients, kUsed<kDegree>);
  const Vec3<T> mean = exists ? load_vec3(in.means.at(in.batch, b), i) : Vec3<T>{};
  T sum[kUsed<kDegree>] = {};
  Vec3<T> v_mean{};
  for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
    CameraTerm<T> term;
    const Vec3<T> v_color =
        usable && drawn_by(camera) ? load_vec3(v_colors, camera * in.n + i) : Vec3<T>{};
    // Without a cotangent the Gaussian was not drawn, possibly because a parameter is not finite,
    // and 0 times that parameter would be NaN.
    if (v_color.x != T(0) || v_color.y != T(0) || v_color.z != T(0)) {
      const Pose<T> pose = load_pose(viewmat, camera);
      T v_coefficients[kUsed<kDegree>];
      Vec3<T> v_offset;
      sh_color_of_degree_vjp<kDegree>(coefficients, mean - camera_center(pose), in.convention,
                                      v_color, v_coefficients, v_offset);
      JGD_UNROLL
      for (int k = 0; k < kUsed<kDegree>; ++k) sum[k] += v_coefficients[k];
      v_mean += v_offset;
      term.set(camera_center_vjp(pose, T(-1) * v_offset));
    }
    if (partial) {
      const int64_t row = (b * in.n_cameras + camera) * blocks + block;
      store_block_sum(term, camera, tile + kTileValues<T, kDegree>,
                      partial + row * kCameraGradientSize);
    }
  }
  if (exists && args.v_means.data) store_vec3(args.v_means.at(in.batch, b), i, v_mean);
  if (!args.v_sh.data) return;
  JGD_UNROLL
  for (int k = 0; k < kUsed<kDegree>; ++k) coefficients[k] = sum[k];
  store_tile<kDegree>(tile, in.n - first, static_cast<int>(stride),
                      args.v_sh.at(in.batch, b) + first * stride);
}

// Calls body with the degree as a compile-time constant, so that coefficients stay in registers.
template <typename Body>
void with_degree(int degree, const Body& body) {
  switch (degree) {
    case 0:
      return body(std::integral_constant<int, 0>());
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    default:
      return body(std::integral_constant<int, kMaxShDegree>());
  }
}

}  // namespace

template <typename T>
void shade_forward(Context& context, const ShadeForward<T>& args) {
  const ShadeInputs<T>& in = args.in;
  const int64_t blocks = n_blocks(in.n, kThreads<T>);
  with_degree(in.degree, [&](auto degree) {
    constexpr int kDegree = decltype(degree)::value;
    launch(context, "shade", forward_kernel<T, kDegree>, in.batch.count() * in.n_cameras * blocks,
           kThreads<T>, kTileValues<T, kDegree> * sizeof(T), args, blocks);
  });
}

template <typename T>
void shade_backward(Context& context, const ShadeBackward<T>& args) {
  const ShadeInputs<T>& in = args.in;
  const CallSizes sizes = CallSizes::of(in);
  Workspace w = args.workspace;
  const CameraGradientArrays<T> arrays(w, sizes);
  if (!context.require(w.fits(), "workspace is too small")) return;
  T* partial = args.v_viewmat.data ? arrays.partial : nullptr;
  const int64_t blocks = arrays.n_camera_gradient_blocks(in.n);
  with_degree(in.degree, [&](auto degree) {
    constexpr int kDegree = decltype(degree)::value;
    constexpr int64_t kValues = kTileValues<T, kDegree> + kBlockSumSize<T>;
    constexpr int64_t kShared = kValues * sizeof(T);
    static_assert(kShared <= 48 * 1024);
    launch(context, "shade backward", backward_kernel<T, kDegree>, sizes.n_batch * blocks,
           kThreads<T>, kShared, args, partial, blocks);
  });
  CameraOutputs<T> out;
  out.batch = in.batch;
  out.n_cameras = in.n_cameras;
  out.v_viewmat = args.v_viewmat;
  store_camera_gradient(context, partial, blocks, out);
}

#define JGD_INSTANTIATE(T)                                            \
  template void shade_forward<T>(Context&, const ShadeForward<T>&);   \
  template void shade_backward<T>(Context&, const ShadeBackward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cuda
