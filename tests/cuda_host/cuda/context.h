// Shadow of csrc/cuda/context.h: there is no stream, and the only errors are our own.
#pragma once

#include <string>

namespace jgd::cuda {

struct NoStream {};

struct Context {
  NoStream stream;
  std::string error = {};  // of the first launch that failed; empty if none did

  void check(const std::string& message) {
    if (error.empty()) error = message;
  }
};

}  // namespace jgd::cuda
