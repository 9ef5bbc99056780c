// Tests how parallel_for ends when something throws: the body in any thread, or the pool.

#include "cpu/parallel.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "threads.h"

namespace {

using jgd::cpu::parallel_for;

struct Failure {
  int64_t range;
};

// Some ranges throw, the others take a while: those that have begun end before the caller goes on,
// and the rest is left out.
void CheckThrowingBody(int64_t n_threads) {
  bool thrown = false, idle = true;
  std::atomic<int64_t> n_running{0}, n_begun{0};
  const int64_t n = 1000;
  test::Threads pool(n_threads);
  try {
    parallel_for(pool, n, 1, [&](int64_t, int64_t begin, int64_t) {
      ++n_begun;
      if (begin % 7 == 3) throw Failure{begin};
      ++n_running;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      --n_running;
    });
  } catch (const Failure& failure) {
    thrown = failure.range % 7 == 3;
    idle = n_running == 0;
  }
  const std::string with = ", threads " + std::to_string(n_threads);
  test::Expect("the exception of the body arrives" + with, thrown);
  test::Expect("no body runs after it" + with, idle);
  test::Expect("the other ranges are left out" + with, n_begun < n);
}

// A pool that cannot run the task with number `n_good` and later ones.
class BrokenPool final : public jgd::cpu::ThreadPool {
 public:
  explicit BrokenPool(int64_t n_good) : n_good_(n_good) {}
  int64_t num_threads() const override { return 4; }
  void schedule(std::function<void()> task) override {
    if (n_good_-- <= 0) throw std::runtime_error("no thread");
    threads_.schedule(std::move(task));
  }

 private:
  int64_t n_good_;
  test::Threads threads_{4};
};

void CheckBrokenPool(int64_t n_good) {
  BrokenPool pool(n_good);
  std::vector<int> n_visits(100, 0);
  parallel_for(pool, 100, 3, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++n_visits[i];
  });
  test::Expect("every index once, threads that start " + std::to_string(n_good),
               n_visits == std::vector<int>(100, 1));
}

// A pool that runs its tasks when it is destroyed.
class LatePool final : public jgd::cpu::ThreadPool {
 public:
  ~LatePool() override {
    for (const std::function<void()>& task : tasks_) task();
  }
  int64_t num_threads() const override { return 4; }
  void schedule(std::function<void()> task) override { tasks_.push_back(std::move(task)); }

 private:
  std::vector<std::function<void()>> tasks_;
};

void CheckLatePool() {
  int n_calls = 0, n_calls_before = 0;
  bool thrown = false;
  {
    LatePool pool;
    try {
      parallel_for(pool, 100, 1, [&](int64_t, int64_t begin, int64_t) {
        ++n_calls;
        throw Failure{begin};
      });
    } catch (const Failure&) {
      thrown = true;
    }
    n_calls_before = n_calls;
  }
  test::Expect("helpers that start after a failure find nothing",
               thrown && n_calls_before == 1 && n_calls == 1);
}

}  // namespace

int main() {
  for (const int64_t n_threads : {2, 4, 9}) CheckThrowingBody(n_threads);
  for (const int64_t n_good : {0, 1, 2}) CheckBrokenPool(n_good);
  CheckLatePool();
  return test::Finish();
}
