// Replaces csrc/cuda/context.h: there is no stream, and the only errors are our own.
#pragma once

#include <string>

namespace jgd::cuda {

struct NoStream {};

struct Context {
  NoStream stream;
  std::string error = {};  // of the first launch that failed; empty if all succeeded

  bool failed() const { return !error.empty(); }

  void check(const std::string& message) {
    if (error.empty()) error = message;
  }

  bool require(bool condition, const char* message) {
    if (!condition && error.empty()) error = message;
    return condition;
  }
};

}  // namespace jgd::cuda
