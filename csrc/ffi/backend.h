// What differs between backends at the XLA boundary; the handler files do not. So far there is the
// CPU.
#pragma once

#include <functional>
#include <utility>

#include "cpu/parallel.h"
#include "xla/ffi/api/ffi.h"

namespace jgd {

namespace backend = cpu;

namespace cpu {

// XLA's pool as the loops see it.
class XlaThreadPool final : public ThreadPool {
 public:
  explicit XlaThreadPool(xla::ffi::ThreadPool& pool) : pool_(pool) {}
  int64_t num_threads() const override { return pool_.num_threads(); }
  void schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  xla::ffi::ThreadPool& pool_;
};

// The handler argument that XLA fills in, and the execution context that the stages take.
using XlaContext = xla::ffi::ThreadPool;
using Context = XlaThreadPool;

}  // namespace cpu
}  // namespace jgd
