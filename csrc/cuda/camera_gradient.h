// Accumulates the gradient of each camera over all Gaussians, in a fixed order.
//
// Each block of Gaussians writes its sum to CameraGradientArrays::partial, and one block for each
// camera adds these.
#pragma once

#include <cstdint>

#include "cuda/context.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/reduce.h"
#include "cuda/workspace.h"
#include "math/camera.h"
#include "stages/batch.h"

namespace jgd::cuda {

// The contribution of one Gaussian to the gradient of one camera.
template <typename T>
struct CameraTerm {
  T values[kCameraGradientSize] = {};

  __device__ void set(const Pose<T>& v) {
    JGD_UNROLL
    for (int i = 0; i < 9; ++i) values[i] = v.R.m[i];
    values[9] = v.t.x;
    values[10] = v.t.y;
    values[11] = v.t.z;
  }
  __device__ void set(const Pinhole<T>& v) {
    values[12] = v.fx;
    values[13] = v.fy;
    values[14] = v.cx;
    values[15] = v.cy;
  }
};

// The number of values in the shared memory of store_block_sum.
template <typename T>
constexpr int kBlockSumSize = 2 * kCameraGradientThreads<T> / kWarpSize * kCameraGradientSize;

// Sums the terms of the block for one camera: first lanes, then warps in their order. All threads
// call it for the cameras in their order. Consecutive cameras use different halves of the shared
// memory, so that one barrier is enough.
template <typename T>
__device__ void store_block_sum(CameraTerm<T>& term, int64_t camera, T* shared, T* out) {
  static_assert(kCameraGradientSize * 2 == kWarpSize);
  shared += (camera % 2) * (kBlockSumSize<T> / 2);
  const T sum = reduce_values(term.values);
  if (lane() % 2 == 0) shared[warp_in_block() * kCameraGradientSize + lane() / 2] = sum;
  sync_block();
  const int value = thread_in_block();
  if (value >= kCameraGradientSize) return;
  T total = T(0);
  JGD_UNROLL
  for (int warp = 0; warp < kCameraGradientThreads<T> / kWarpSize; ++warp) {
    total += shared[warp * kCameraGradientSize + value];
  }
  out[value] = total;
}

// Where the gradients of the cameras go.
template <typename T>
struct CameraOutputs {
  BatchShape batch;
  int64_t n_cameras;
  Batched<T> v_viewmat;  // [C, 4, 4] or absent
  Batched<T> v_K;        // [C, 3, 3] or absent
};

constexpr int kCameraSumThreads = 512;

// One block for each (batch, camera). A group of kCameraGradientSize threads adds every kGroups-th
// partial sum, one value for each thread, and the groups are added in their order; in double,
// because there may be many.
template <typename T>
__global__ void sum_camera_gradient(const T* partial, int64_t n_partial, CameraOutputs<T> out) {
  constexpr int kGroups = kCameraSumThreads / kCameraGradientSize;
  const int64_t b = block_index() / out.n_cameras, camera = block_index() % out.n_cameras;
  T* viewmat = out.v_viewmat.at(out.batch, b);
  T* K = out.v_K.at(out.batch, b);
  const int thread = thread_in_block();
  const int group = thread / kCameraGradientSize, value = thread % kCameraGradientSize;
  partial += block_index() * n_partial * kCameraGradientSize;
  double sum = 0.0;
  for (int64_t i = group; i < n_partial; i += kGroups) {
    sum += double{partial[i * kCameraGradientSize + value]};
  }
  double* sums = shared_memory<double>();
  sums[thread] = sum;
  sync_block();
  if (group == 0) {
    for (int i = 1; i < kGroups; ++i) sum += sums[i * kCameraGradientSize + value];
    sums[value] = sum;  // no other thread reads or writes it before the barrier
  }
  sync_block();
  if (viewmat && thread < 16) {
    const int row = thread / 4, column = thread % 4;
    const double v = row == 3 ? 0.0 : column == 3 ? sums[9 + row] : sums[3 * row + column];
    viewmat[16 * camera + thread] = static_cast<T>(v);
  }
  if (K && thread < 9) {
    // fx, fy, cx, cy stand at 0, 4, 2, 5.
    const int source = thread == 0   ? 12
                       : thread == 4 ? 13
                       : thread == 2 ? 14
                       : thread == 5 ? 15
                                     : -1;
    const double v = source < 0 ? 0.0 : sums[source];
    K[9 * camera + thread] = static_cast<T>(v);
  }
}

// Writes v_viewmat and v_K, where they are wanted, from n_partial partial sums for each camera;
// zeros if there are none.
template <typename T>
void store_camera_gradient(Context& context, const T* partial, int64_t n_partial,
                           const CameraOutputs<T>& out) {
  if (!out.v_viewmat.data && !out.v_K.data) return;
  launch(context, "camera gradient", sum_camera_gradient<T>, out.batch.count() * out.n_cameras,
         kCameraSumThreads, kCameraSumThreads * sizeof(double), partial, n_partial, out);
}

}  // namespace jgd::cuda
