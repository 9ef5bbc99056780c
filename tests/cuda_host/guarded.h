// Memory that ends at a page nobody may touch, filled with garbage: an access behind the end stops
// the process, and what is read before it was written is NaN or -1.
#pragma once

#include <cstdint>
#include <cstring>

namespace jgd::cuda::host {

class GuardedArray {
 public:
  explicit GuardedArray(int64_t bytes);
  ~GuardedArray();
  GuardedArray(const GuardedArray&) = delete;
  GuardedArray& operator=(const GuardedArray&) = delete;

  unsigned char* data() const { return data_; }
  int64_t size() const { return size_; }
  void fill_with_garbage() { std::memset(data_, 0xff, static_cast<size_t>(size_)); }
  void make_read_only();

 private:
  unsigned char* pages_;
  int64_t page_bytes_;
  unsigned char* data_;
  int64_t size_;
};

// For the message when the process stops: what runs on this host thread (null: nothing).
void note_position(const char* kernel, const int64_t* block, const int* thread);

}  // namespace jgd::cuda::host
