#include "guarded.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace jgd::cuda::host {
namespace {

const int64_t kPage = sysconf(_SC_PAGESIZE);

thread_local const char* running_kernel = nullptr;
thread_local const int64_t* running_block = nullptr;
thread_local const int* running_thread = nullptr;
struct sigaction earlier;

// Says where, then leaves the signal to whoever had it before.
void report(int) {
  if (running_kernel != nullptr) {
    std::fprintf(stderr, "\ncuda_host: %s, block %lld, thread %d: access outside of an array\n",
                 running_kernel, static_cast<long long>(*running_block), *running_thread);
  }
  sigaction(SIGSEGV, &earlier, nullptr);
}

}  // namespace

// A guard page in front as well: a stack grows downwards.
GuardedArray::GuardedArray(int64_t bytes)
    : page_bytes_((bytes + kPage - 1) / kPage * kPage + 2 * kPage), size_(bytes) {
  void* pages =
      mmap(nullptr, page_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  pages_ = static_cast<unsigned char*>(pages);
  if (pages == MAP_FAILED ||
      mprotect(pages_ + kPage, page_bytes_ - 2 * kPage, PROT_READ | PROT_WRITE) != 0) {
    std::perror("cuda_host: no memory");
    std::abort();
  }
  data_ = pages_ + page_bytes_ - kPage - bytes;
}

GuardedArray::~GuardedArray() { munmap(pages_, page_bytes_); }

void GuardedArray::make_read_only() {
  if (page_bytes_ > 2 * kPage) mprotect(pages_ + kPage, page_bytes_ - 2 * kPage, PROT_READ);
}

void note_position(const char* kernel, const int64_t* block, const int* thread) {
  static const bool installed = [] {
    struct sigaction action{};
    action.sa_handler = report;
    return sigaction(SIGSEGV, &action, &earlier) == 0;
  }();
  static_cast<void>(installed);
  running_kernel = kernel;
  running_block = block;
  running_thread = thread;
}

}  // namespace jgd::cuda::host
