// Provides a thread pool that starts a thread for each task.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/parallel.h"

namespace test {

class Threads final : public jgd::cpu::ThreadPool {
 public:
  explicit Threads(int64_t n) : n_(n) {}
  ~Threads() override {
    for (std::thread& thread : threads_) thread.join();
  }
  int64_t num_threads() const override { return n_; }
  void schedule(std::function<void()> task) override { threads_.emplace_back(std::move(task)); }

 private:
  int64_t n_;
  std::vector<std::thread> threads_;
};

}  // namespace test
