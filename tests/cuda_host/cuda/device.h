// Replaces csrc/cuda/device.h: the same functions, called by fibers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "machine.h"

// The kernels of the package are compiled as C++. They use no static shared memory.
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace jgd::cuda {

using std::max;  // CUDA declares them everywhere
using std::min;

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline int thread_in_block() { return host::position().thread; }
inline int64_t block_index() { return host::position().block; }
inline int64_t thread_index() {
  const host::Position& p = host::position();
  return p.block * p.n_threads + p.thread;
}
inline int lane() { return host::position().thread % kWarpSize; }
inline int warp_in_block() { return host::position().thread / kWarpSize; }

template <typename T>
T* shared_memory() {
  return reinterpret_cast<T*>(host::shared_bytes());
}

// All threads of a meeting have to call it from the same line, so each function takes its caller's.
inline void sync_block(int line = __builtin_LINE()) { host::sync_block(line); }
inline bool sync_block_any(bool predicate, int line = __builtin_LINE()) {
  return host::sync_block_any(predicate, line);
}
inline void sync_warp(int line = __builtin_LINE()) {
  host::meet_warp(host::Meeting::kSyncWarp, 0, line);
}

inline unsigned ballot(bool predicate, int line = __builtin_LINE()) {
  const uint64_t* values = host::meet_warp(host::Meeting::kBallot, predicate, line);
  unsigned bits = 0;
  for (int i = 0; i < kWarpSize; ++i) bits |= static_cast<unsigned>(values[i]) << i;
  return bits;
}

namespace host {

// Returns the value of the source lane, for the types that __shfl_sync takes.
template <typename T>
T shuffle_from(Meeting what, T value, int source_lane, int line) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t* values = meet_warp(what, bits, line);
  T result;
  std::memcpy(&result, &values[source_lane & (kLanes - 1)], sizeof(T));
  return result;
}

}  // namespace host

template <typename T>
T shuffle(T value, int source_lane, int line = __builtin_LINE()) {
  return host::shuffle_from(host::Meeting::kShuffle, value, source_lane, line);
}
template <typename T>
T shuffle_xor(T value, int mask, int line = __builtin_LINE()) {
  return host::shuffle_from(host::Meeting::kShuffleXor, value, lane() ^ mask, line);
}
template <typename T>
T shuffle_up(T value, int distance, int line = __builtin_LINE()) {
  const int source = lane() < distance ? lane() : lane() - distance;
  return host::shuffle_from(host::Meeting::kShuffleUp, value, source, line);
}

inline int count_bits(unsigned bits) { return __builtin_popcount(bits); }
inline int rank_among(unsigned bits) { return count_bits(bits & ((1u << lane()) - 1u)); }

// All fibers belong to one host thread, so that nothing comes in between.
template <typename T>
void atomic_add(T* address, T value) {
  *address += value;
}
template <typename T>
void atomic_min(T* address, T value) {
  if (value < *address) *address = value;
}
template <typename T>
void atomic_max(T* address, T value) {
  if (*address < value) *address = value;
}

template <typename T>
T fast_exp2(T x) {
  return std::exp2(x);
}
template <typename T>
T fast_reciprocal(T x) {
  return T(1) / x;
}

}  // namespace jgd::cuda
