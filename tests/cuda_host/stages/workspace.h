// Replaces csrc/stages/workspace.h: the same sizes, but each array is in guarded memory of its own,
// which lives until the handler returns. The buffer of the call itself is not used.
#pragma once

#include <cstdint>

namespace jgd {

namespace cuda::host {
// Returns the array that begins at `key` of the buffer; within a call always the same one.
void* workspace_array(const void* key, int64_t bytes);
}  // namespace cuda::host

class Workspace {
 public:
  Workspace() = default;
  Workspace(void* data, int64_t size) : data_(static_cast<char*>(data)), size_(size) {}

  template <typename T>
  T* take(int64_t n) {
    const int64_t begin = used_;
    const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (data_ == nullptr || used_ > size_) return nullptr;
    return static_cast<T*>(cuda::host::workspace_array(data_ + begin, bytes));
  }

  int64_t used() const { return used_; }
  bool fits() const { return used_ <= size_; }

 private:
  static constexpr int64_t kAlignment = 256;
  char* data_ = nullptr;
  int64_t size_ = 0;
  int64_t used_ = 0;
};

}  // namespace jgd
