// Defines small kernels, right and wrong ones, that test the emulation itself.

#include "cuda/device.h"
#include "cuda/launch.h"

namespace jgd::cuda {
namespace {

constexpr int kThreads = 128;

// Each block reverses its part of `in`, through shared memory.
template <bool kBarrier>
__global__ void reverse_kernel(const int* in, int* out) {
  int* part = shared_memory<int>();
  const int i = thread_in_block();
  part[i] = in[thread_index()];
  if constexpr (kBarrier) sync_block();
  out[thread_index()] = part[kThreads - 1 - i];
}

// Sums parts one after another in the same shared memory. Without the second barrier a warp writes
// the next part while another still reads this one.
template <bool kSecondBarrier>
__global__ void sum_parts_kernel(const int* in, int* out, int n_parts) {
  int* part = shared_memory<int>();
  int sum = 0;
  for (int p = 0; p < n_parts; ++p) {
    part[thread_in_block()] = in[p * kThreads + thread_in_block()];
    sync_block();
    for (int i = 0; i < kThreads; ++i) sum += part[i];
    if constexpr (kSecondBarrier) sync_block();
  }
  out[thread_index()] = sum;
}

// Lane 0 writes, the others read.
template <bool kSync>
__global__ void broadcast_kernel(const int* in, int* out) {
  int* first = shared_memory<int>();
  if (lane() == 0) first[warp_in_block()] = in[thread_index()];
  if constexpr (kSync) sync_warp();
  out[thread_index()] = first[warp_in_block()];
}

// Combines all warp functions in one number per thread.
__global__ void words_kernel(const int* in, int* out) {
  const int value = in[thread_index()];
  const unsigned odd = ballot(value % 2 != 0);
  int sum = value;
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  int running = value;
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int below = shuffle_up(running, distance);
    if (lane() >= distance) running += below;
  }
  const double third = shuffle(0.5 * value, 3);
  atomic_add(&out[block_index()], sum * (lane() == 0));
  out[8 + thread_index()] = running + 1000 * rank_among(odd) + static_cast<int>(2 * third);
}

__global__ void divergent_ballot_kernel(const int* in, int* out) {
  if (in[thread_index()] % 2 != 0) out[thread_index()] = static_cast<int>(ballot(true));
}

__global__ void two_ballots_kernel(const int* in, int* out) {
  if (in[thread_index()] % 2 != 0) {
    out[thread_index()] = static_cast<int>(ballot(true));
  } else {
    out[thread_index()] = static_cast<int>(ballot(false));
  }
}

__global__ void divergent_barrier_kernel(const int* in, int* out) {
  if (in[thread_index()] == 7) return;
  sync_block();
  out[thread_index()] = 1;
}

__global__ void overrun_kernel(const int* in, int* out) {
  shared_memory<int>()[thread_in_block() + 1] = in[thread_index()];
  out[thread_index()] = 1;
}

}  // namespace
}  // namespace jgd::cuda

// Runs one of the kernels on `n_blocks` blocks; copies the message of an error.
extern "C" void run_toy(const char* kernel, int64_t n_blocks, const int* in, int* out,
                        char* message) {
  using namespace jgd::cuda;
  Context context{};
  const int64_t shared = kThreads * sizeof(int);
  const auto run = [&](const char* name, void (*function)(const int*, int*)) {
    if (std::strcmp(kernel, name) == 0) {
      launch(context, name, function, n_blocks, kThreads, shared, in, out);
    }
  };
  const auto run_parts = [&](const char* name, void (*function)(const int*, int*, int)) {
    if (std::strcmp(kernel, name) == 0) {
      launch(context, name, function, 1, kThreads, shared, in, out, 5);
    }
  };
  run("reverse", reverse_kernel<true>);
  run("reverse, unsynchronised", reverse_kernel<false>);
  run_parts("sum_parts", sum_parts_kernel<true>);
  run_parts("sum_parts, unsynchronised", sum_parts_kernel<false>);
  run("broadcast", broadcast_kernel<true>);
  run("broadcast, unsynchronised", broadcast_kernel<false>);
  run("words", words_kernel);
  run("divergent ballot", divergent_ballot_kernel);
  run("two ballots", two_ballots_kernel);
  run("divergent barrier", divergent_barrier_kernel);
  run("overrun", overrun_kernel);
  std::strncpy(message, context.error.c_str(), 999);
}
