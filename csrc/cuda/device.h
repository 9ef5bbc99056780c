// Wraps the parts of CUDA that kernels use: thread indices, shared memory, and warp and block
// primitives.
//
// Kernels use nothing else of CUDA, so that tests/cuda_host can put an emulation in place of this
// file. All warp functions are for whole warps: every lane calls them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace jgd::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int thread_in_block() { return static_cast<int>(threadIdx.x); }
__device__ inline int64_t block_index() { return blockIdx.x; }
__device__ inline int64_t thread_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline int lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ inline int warp_in_block() { return static_cast<int>(threadIdx.x) / kWarpSize; }

// The dynamic shared memory of the block; uninitialised.
template <typename T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

__device__ inline void sync_block() { __syncthreads(); }
// The same; returns whether the predicate is true in any thread of the block.
__device__ inline bool sync_block_any(bool predicate) { return __syncthreads_or(predicate) != 0; }
// Makes the shared memory that a lane wrote visible to the other lanes of its warp.
__device__ inline void sync_warp() { __syncwarp(); }

// One bit per lane.
__device__ inline unsigned ballot(bool predicate) { return __ballot_sync(kAllLanes, predicate); }

template <typename T>
__device__ T shuffle(T value, int source_lane) {
  return __shfl_sync(kAllLanes, value, source_lane);
}
template <typename T>
__device__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
// The value of the lane `distance` below; a lane without one keeps its own.
template <typename T>
__device__ T shuffle_up(T value, int distance) {
  return __shfl_up_sync(kAllLanes, value, distance);
}

__device__ inline int count_bits(unsigned bits) { return __popc(bits); }
// The number of set bits of lanes below this one.
__device__ inline int rank_among(unsigned bits) { return __popc(bits & ((1u << lane()) - 1u)); }

template <typename T>
__device__ void atomic_add(T* address, T value) {
  if constexpr (std::is_same_v<T, int64_t>) {
    atomicAdd(reinterpret_cast<unsigned long long*>(address),
              static_cast<unsigned long long>(value));
  } else {
    atomicAdd(address, value);
  }
}
// For uint32_t.
template <typename T>
__device__ void atomic_min(T* address, T value) {
  atomicMin(address, value);
}
// For uint32_t and uint64_t.
template <typename T>
__device__ void atomic_max(T* address, T value) {
  if constexpr (sizeof(T) == 8) {
    atomicMax(reinterpret_cast<unsigned long long*>(address),
              static_cast<unsigned long long>(value));
  } else {
    atomicMax(address, value);
  }
}

// 2^x for x in [-126, 127], relative error 2^-22 (PTX ISA, ex2.approx).
__device__ inline float fast_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ inline double fast_exp2(double x) { return exp2(x); }

// 1 / x for normal x, error 1 ulp (PTX ISA, rcp.approx).
__device__ inline float fast_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ inline double fast_reciprocal(double x) { return 1.0 / x; }

}  // namespace jgd::cuda
