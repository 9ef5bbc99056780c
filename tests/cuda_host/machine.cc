// Schedules the threads of a block as fibers and lets them meet.

#include "machine.h"

#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>

#include "guarded.h"

namespace jgd::cuda::host {
namespace {

constexpr int kMaxWarps = kMaxThreads / kLanes;
constexpr int64_t kStackBytes = 128 << 10;

const char* name_of(Meeting what) {
  constexpr const char* kNames[] = {"",        "sync_block",  "sync_warp", "ballot",
                                    "shuffle", "shuffle_xor", "shuffle_up"};
  return kNames[static_cast<int>(what)];
}

// xorshift64*
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed | 1) {}
  uint64_t bits() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Du;
  }
  int below(int n) { return static_cast<int>((bits() >> 32) * n >> 32); }

 private:
  uint64_t state_;
};

// The random seed, and how often each kernel was launched. XLA runs the ops of a program on any
// thread and at the same time, so a single counter of launches would not be reproducible.
struct Seeds {
  std::mutex mutex;
  uint64_t seed = 0;
  std::map<std::string, uint64_t> launches;
  Seeds() {
    if (const char* value = std::getenv("JGD_CUDA_HOST_SEED")) {
      seed = std::strtoull(value, nullptr, 0);
    }
  }
  uint64_t next(const char* name) {
    const std::lock_guard<std::mutex> lock(mutex);
    uint64_t hash = seed * 0x9E3779B97F4A7C15u + ++launches[name];
    for (const char* c = name; *c; ++c) {
      hash = (hash ^ static_cast<unsigned char>(*c)) * 0x100000001B3u;
    }
    hash ^= hash >> 29;
    return hash * 0xBF58476D1CE4E5B9u;
  }
};
Seeds& seeds() {
  static Seeds instance;
  return instance;
}

// A thread of the block. Its fiber is kept from block to block, because a new context needs system
// calls.
struct Fiber {
  std::unique_ptr<GuardedArray> stack;
  jmp_buf state;
  bool started = false;
};

struct Warp {
  int ready[kLanes];  // threads that can go on
  int n_ready;
  Meeting what;  // the meeting that `n_waiting` lanes wait for
  int line;
  int n_waiting;
  unsigned round;  // a lane may come to the next meeting before others have left this one
  uint64_t values[2][kLanes];
};

// The GPU of one host thread.
class Machine {
 public:
  std::string run(const char* name, void (*body)(const void*), const void* data, int64_t n_blocks,
                  int n_threads, int64_t n_shared_bytes);
  void sync_block(int line);
  bool sync_block_any(bool predicate, int line);
  const uint64_t* meet_warp(Meeting what, uint64_t value, int line);
  [[noreturn]] void fault();

  Position position{};
  GuardedArray* shared = nullptr;

 private:
  bool run_block();
  void start(Fiber& fiber);
  void resume(int thread);
  void leave();              // the running thread waits or has ended
  [[noreturn]] void live();  // a fiber's life
  void make_ready(int warp);
  int choose_warp();
  void fail(const std::string& message);
  static void enter(unsigned high, unsigned low);

  const char* name_ = nullptr;
  void (*body_)(const void*) = nullptr;
  const void* data_ = nullptr;
  std::string error_;

  Random random_{1};
  bool in_turn_ = false;  // warps by a fixed priority, so that one runs ahead as far as it can
  int priority_[kMaxWarps];
  uint32_t ready_warps_ = 0;

  jmp_buf scheduler_;
  Fiber fibers_[kMaxThreads];
  Warp warps_[kMaxWarps];
  int n_ended_ = 0;
  int n_in_barrier_ = 0;
  int barrier_line_ = 0;
  bool any_so_far_ = false;
  bool any_in_barrier_ = false;
};

Machine& machine() {
  thread_local std::unique_ptr<Machine> instance = std::make_unique<Machine>();
  return *instance;
}

thread_local Machine* running = nullptr;
struct sigaction earlier;

// A fault of a kernel becomes the error of its launch; any other goes to the earlier handler.
void on_fault(int) {
  if (running != nullptr) running->fault();
  sigaction(SIGSEGV, &earlier, nullptr);
}

void catch_faults() {
  struct sigaction action{};
  action.sa_handler = on_fault;
  action.sa_flags = SA_ONSTACK | SA_NODEFER;  // it does not return
  sigaction(SIGSEGV, &action, &earlier);
}

void Machine::enter(unsigned high, unsigned low) {
  reinterpret_cast<Machine*>(static_cast<uintptr_t>(uint64_t{high} << 32 | low))->live();
}

void Machine::live() {
  for (;;) {
    body_(data_);
    ++n_ended_;
    leave();
  }
}

void Machine::start(Fiber& fiber) {
  if (!fiber.stack) fiber.stack = std::make_unique<GuardedArray>(kStackBytes);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack->data();
  // The tops of the stacks have different offsets in their pages; otherwise all would share the
  // same few cache lines.
  context.uc_stack.ss_size = kStackBytes - (&fiber - fibers_) % 32 * 320;
  context.uc_link = nullptr;
  const uint64_t self = reinterpret_cast<uintptr_t>(this);
  makecontext(&context, reinterpret_cast<void (*)()>(enter), 2, static_cast<unsigned>(self >> 32),
              static_cast<unsigned>(self));
  fiber.started = true;
  setcontext(&context);
}

void Machine::resume(int thread) {
  position.thread = thread;
  Fiber& fiber = fibers_[thread];
  if (_setjmp(scheduler_) != 0) return;
  if (fiber.started) _longjmp(fiber.state, 1);
  start(fiber);
}

void Machine::leave() {
  if (_setjmp(fibers_[position.thread].state) == 0) _longjmp(scheduler_, 1);
}

void Machine::fail(const std::string& message) {
  if (error_.empty()) {
    error_ = std::string(name_) + ", block " + std::to_string(position.block) + ": " + message;
  }
}

void Machine::fault() {
  fail("thread " + std::to_string(position.thread) + " accesses memory outside of its arrays");
  _longjmp(scheduler_, 1);
}

void Machine::make_ready(int warp) {
  Warp& w = warps_[warp];
  for (int i = 0; i < kLanes; ++i) w.ready[i] = warp * kLanes + i;
  w.n_ready = kLanes;
  w.n_waiting = 0;
  ready_warps_ |= 1u << warp;
}

int Machine::choose_warp() {
  if (!in_turn_) {
    int skip = random_.below(__builtin_popcount(ready_warps_));
    uint32_t rest = ready_warps_;
    for (; skip > 0; --skip) rest &= rest - 1;
    return __builtin_ctz(rest);
  }
  int best = -1;
  for (uint32_t rest = ready_warps_; rest != 0; rest &= rest - 1) {
    const int warp = __builtin_ctz(rest);
    if (best < 0 || priority_[warp] > priority_[best]) best = warp;
  }
  return best;
}

void Machine::sync_block(int line) {
  if (n_in_barrier_ == 0) barrier_line_ = line;
  if (line != barrier_line_) {
    fail("threads are in the sync_block of line " + std::to_string(barrier_line_) +
         " and in that of line " + std::to_string(line));
  }
  if (++n_in_barrier_ == position.n_threads) {
    n_in_barrier_ = 0;
    for (int w = 0; w < position.n_threads / kLanes; ++w) make_ready(w);
  }
  leave();
}

bool Machine::sync_block_any(bool predicate, int line) {
  any_so_far_ |= predicate;
  if (n_in_barrier_ + 1 == position.n_threads) {  // the last one to come
    any_in_barrier_ = any_so_far_;
    any_so_far_ = false;
  }
  sync_block(line);
  return any_in_barrier_;
}

const uint64_t* Machine::meet_warp(Meeting what, uint64_t value, int line) {
  const int index = position.thread / kLanes;
  Warp& warp = warps_[index];
  if (warp.n_waiting == 0) {
    warp.what = what;
    warp.line = line;
  }
  if (warp.what != what || warp.line != line) {
    fail(std::string("lanes of a warp are in ") + name_of(warp.what) + " of line " +
         std::to_string(warp.line) + " and in " + name_of(what) + " of line " +
         std::to_string(line));
  }
  uint64_t* values = warp.values[warp.round & 1];
  values[position.thread % kLanes] = value;
  if (++warp.n_waiting == kLanes) {
    ++warp.round;
    make_ready(index);
  }
  leave();
  return values;
}

// Returns false if some threads cannot end. All stacks are then abandoned as they are.
bool Machine::run_block() {
  const int n_warps = position.n_threads / kLanes;
  n_ended_ = n_in_barrier_ = 0;
  any_so_far_ = false;
  ready_warps_ = 0;
  for (int w = 0; w < n_warps; ++w) make_ready(w);
  in_turn_ = random_.below(2) == 0;
  std::iota(priority_, priority_ + n_warps, 0);
  for (int w = n_warps - 1; w > 0; --w) std::swap(priority_[w], priority_[random_.below(w + 1)]);

  while (ready_warps_ != 0 && error_.empty()) {
    const int w = choose_warp();
    Warp& warp = warps_[w];
    std::swap(warp.ready[random_.below(warp.n_ready)], warp.ready[warp.n_ready - 1]);
    if (--warp.n_ready == 0) ready_warps_ &= ~(1u << w);
    resume(warp.ready[warp.n_ready]);
  }
  if (error_.empty() && n_ended_ == position.n_threads) return true;

  std::string who = std::to_string(n_ended_) + " of " + std::to_string(position.n_threads) +
                    " threads have ended";
  if (n_in_barrier_ > 0) {
    who += ", " + std::to_string(n_in_barrier_) + " wait in sync_block of line " +
           std::to_string(barrier_line_);
  }
  for (int w = 0; w < n_warps; ++w) {
    if (warps_[w].n_waiting == 0) continue;
    who += ", " + std::to_string(warps_[w].n_waiting) + " lanes of warp " + std::to_string(w) +
           " wait in " + name_of(warps_[w].what) + " of line " + std::to_string(warps_[w].line);
  }
  fail("some threads wait for others forever: " + who);
  for (Fiber& fiber : fibers_) fiber.started = false;
  return false;
}

std::string Machine::run(const char* name, void (*body)(const void*), const void* data,
                         int64_t n_blocks, int n_threads, int64_t n_shared_bytes) {
  name_ = name;
  body_ = body;
  data_ = data;
  error_.clear();
  position = {0, n_threads, 0, n_blocks};
  if (n_threads < 1 || n_threads > kMaxThreads || n_threads % kLanes != 0) {
    return std::string(name) + ": " + std::to_string(n_threads) + " threads are not whole warps";
  }
  if (n_blocks > 2147483647) return std::string(name) + ": too many blocks";
  if (n_shared_bytes < 0 || n_shared_bytes > kMaxSharedBytes) {
    return std::string(name) + ": too much shared memory";
  }
  static std::once_flag once;
  std::call_once(once, catch_faults);
  running = this;
  random_ = Random(seeds().next(name));
  GuardedArray shared_array((n_shared_bytes + 15) / 16 * 16);
  shared = &shared_array;

  // A random order of the blocks that needs no list: a step coprime to their number.
  const int64_t first = static_cast<int64_t>(random_.bits() >> 33) % n_blocks;
  int64_t step = 1 + static_cast<int64_t>(random_.bits() >> 33) % n_blocks;
  while (std::gcd(step, n_blocks) != 1) ++step;
  for (int64_t i = 0; i < n_blocks; ++i) {
    position.block = static_cast<int64_t>((first + static_cast<__int128>(i) * step) % n_blocks);
    shared_array.fill(GuardedArray::kGarbage);
    if (!run_block()) break;
  }
  running = nullptr;
  shared = nullptr;
  return error_;
}

}  // namespace

const Position& position() { return machine().position; }
unsigned char* shared_bytes() { return machine().shared->data(); }
void sync_block(int line) { machine().sync_block(line); }
bool sync_block_any(bool predicate, int line) { return machine().sync_block_any(predicate, line); }
const uint64_t* meet_warp(Meeting what, uint64_t value, int line) {
  return machine().meet_warp(what, value, line);
}
uint64_t random_bits(const char* name) { return Random(seeds().next(name)).bits(); }

std::string run(const char* name, void (*body)(const void*), const void* data, int64_t n_blocks,
                int n_threads, int64_t n_shared_bytes) {
  return machine().run(name, body, data, n_blocks, n_threads, n_shared_bytes);
}

}  // namespace jgd::cuda::host

// Lets Python start again from a random seed.
extern "C" void jgd_cuda_host_set_seed(uint64_t seed) {
  auto& s = jgd::cuda::host::seeds();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.seed = seed;
  s.launches.clear();
}
