// Cuts the scratch memory of a call, one buffer that XLA provides, into arrays.
//
// A stage describes its arrays once, in the constructor of a struct that takes them from a
// Workspace. With a Workspace that only measures, the same constructor tells how large the buffer
// has to be, so size and use cannot disagree.
#pragma once

#include <cstdint>

namespace jgd {

class Workspace {
 public:
  Workspace() = default;  // measures: every array is null
  Workspace(void* data, int64_t size) : data_(static_cast<char*>(data)), size_(size) {}

  // Takes the next array, of n values, aligned for any type and any vector access.
  template <typename T>
  T* take(int64_t n) {
    const int64_t begin = used_;
    used_ += (n * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
    return data_ != nullptr && used_ <= size_ ? reinterpret_cast<T*>(data_ + begin) : nullptr;
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
