// Provides memory that ends at a page without access, so that an access behind the end is a fault.
//
// It holds garbage at first and in front: a value that is read there, or before it was written, is
// NaN or -1.
#pragma once

#include <cstdint>
#include <cstring>

namespace jgd::cuda::host {

class GuardedArray {
 public:
  static constexpr int kGarbage = 0xff;

  explicit GuardedArray(int64_t bytes);
  ~GuardedArray();
  GuardedArray(const GuardedArray&) = delete;
  GuardedArray& operator=(const GuardedArray&) = delete;

  unsigned char* data() const { return data_; }
  int64_t size() const { return size_; }
  void fill(int byte) { std::memset(data_, byte, static_cast<size_t>(size_)); }
  void make_read_only();
  bool intact() const;  // whether nothing was written in front of it

 private:
  unsigned char* front() const;

  unsigned char* pages_;
  int64_t page_bytes_;
  unsigned char* data_;
  int64_t size_;
};

}  // namespace jgd::cuda::host
