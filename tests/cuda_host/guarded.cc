// Maps the memory of GuardedArray between pages without access.

#include "guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace jgd::cuda::host {
namespace {

const int64_t kPage = sysconf(_SC_PAGESIZE);

}  // namespace

// There is a guard page in front as well, because a stack grows downwards.
GuardedArray::GuardedArray(int64_t bytes)
    : page_bytes_((bytes + kPage - 1) / kPage * kPage + 2 * kPage), size_(bytes) {
  void* pages =
      mmap(nullptr, page_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  pages_ = static_cast<unsigned char*>(pages);
  if (pages == MAP_FAILED ||
      mprotect(front(), page_bytes_ - 2 * kPage, PROT_READ | PROT_WRITE) != 0) {
    std::perror("cuda_host: no memory");
    std::abort();
  }
  data_ = pages_ + page_bytes_ - kPage - bytes;
  std::memset(front(), kGarbage, data_ - front());
}

unsigned char* GuardedArray::front() const { return pages_ + kPage; }

bool GuardedArray::intact() const {
  return std::all_of(front(), data_, [](unsigned char byte) { return byte == kGarbage; });
}

GuardedArray::~GuardedArray() { munmap(pages_, page_bytes_); }

void GuardedArray::make_read_only() {
  if (page_bytes_ > 2 * kPage) mprotect(front(), page_bytes_ - 2 * kPage, PROT_READ);
}

}  // namespace jgd::cuda::host
