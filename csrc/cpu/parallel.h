// Runs loops on a thread pool that belongs to the caller, XLA: no thread of our own, no state.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "cpu/memory.h"

namespace jgd::cpu {

// The part of a thread pool that a loop needs. The FFI layer wraps XLA's pool; C++ tests bring
// their own.
class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  virtual int64_t num_threads() const = 0;
  // May throw, as when there is no memory or no thread; then the task is never run.
  virtual void schedule(std::function<void()> task) = 0;
};

// The largest worker index that parallel_for passes to its body is below this.
inline int64_t max_workers(const ThreadPool& pool) {
  return std::max<int64_t>(pool.num_threads(), 1);
}

// Calls body(worker, begin, end) for consecutive ranges of at most `grain` indices that cover
// [0, n), or once for all of [0, n) if there is only one worker.
//
// The caller claims ranges as well and waits only for ranges that a running thread has claimed, so
// the loop finishes even if the pool never runs a scheduled task: XLA calls handlers on this very
// pool, where waiting for a queued task can deadlock. A helper that starts late finds nothing to
// claim and touches nothing but the shared counters.
//
// If the body throws, the ranges that nobody has begun are left out, and the first exception is
// thrown to the caller when no thread runs the body any more.
template <typename Body>
void parallel_for(ThreadPool& pool, int64_t n, int64_t grain, const Body& body) {
  if (n <= 0) return;
  const int64_t n_ranges = (n + grain - 1) / grain;
  const int64_t n_helpers = std::min(max_workers(pool), n_ranges) - 1;
  if (n_helpers <= 0) {
    body(int64_t{0}, int64_t{0}, n);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next_worker{0};
    std::atomic<int64_t> next_range{0};
    std::atomic<int64_t> n_done{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::condition_variable all_done;
    std::exception_ptr error;  // the first one
  };
  const auto shared = std::allocate_shared<Shared>(PurposeAllocator<Shared>("a loop on threads"));
  const auto drain = [shared, body = &body, n, grain, n_ranges]() noexcept {
    int64_t worker = -1;
    int64_t n_mine = 0;
    for (int64_t range; (range = shared->next_range.fetch_add(1)) < n_ranges; ++n_mine) {
      if (worker < 0) worker = shared->next_worker.fetch_add(1);
      const int64_t begin = range * grain;
      try {
        if (!shared->failed) (*body)(worker, begin, std::min(n, begin + grain));
      } catch (...) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        if (!shared->failed.exchange(true)) shared->error = std::current_exception();
      }
    }
    if (n_mine > 0 && shared->n_done.fetch_add(n_mine) + n_mine == n_ranges) {
      std::lock_guard<std::mutex> lock(shared->mutex);
      shared->all_done.notify_all();
    }
  };
  try {
    for (int64_t i = 0; i < n_helpers; ++i) pool.schedule(drain);
  } catch (const std::exception&) {
    // Without helpers it only takes longer.
  }
  drain();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->n_done.load() == n_ranges; });
  // Moved, because a helper that starts late would drop the exception while it is being handled.
  const std::exception_ptr error = std::move(shared->error);
  if (error) std::rethrow_exception(error);
}

}  // namespace jgd::cpu
