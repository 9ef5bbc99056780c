// Holds the stream of a call, which is XLA's, and its first error. No kernel code: the XLA boundary
// includes this file too.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace jgd::cuda {

// Nothing here or in the stages waits for the stream, copies to the host or allocates: a handler
// may run while XLA records a CUDA graph.
struct Context {
  cudaStream_t stream;
  std::string error{};  // of the first launch that failed; empty if all succeeded
  bool out_of_memory = false;  // the reason of it

  bool failed() const { return !error.empty(); }

  // Remembers an error of the CUDA runtime; require() remembers one of our own.
  void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess && error.empty()) {
      error = std::string(what) + ": " + cudaGetErrorString(status);
      out_of_memory = status == cudaErrorMemoryAllocation;
    }
  }

  bool require(bool condition, const char* message) {
    if (!condition && error.empty()) error = message;
    return condition;
  }
};

}  // namespace jgd::cuda
