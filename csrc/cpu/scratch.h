// Provides arrays and per-worker scratch memory that begin on cache lines.
#pragma once

#include <cstdint>

#include "cpu/memory.h"

namespace jgd::cpu {

// An uninitialised array that begins on a cache line.
template <typename T>
class AlignedArray {
 public:
  static constexpr int64_t kAlignment = 64;

  AlignedArray(int64_t n, const char* purpose)
      : bytes_(make_array<unsigned char>(n * sizeof(T) + kAlignment, purpose)) {}
  T* get() const {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.get());
    return reinterpret_cast<T*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  Array<unsigned char> bytes_;
};

// One aligned piece of scratch memory for each worker.
template <typename T>
class Scratch {
 public:
  Scratch(int64_t n_workers, int64_t size)
      : pitch_((size + kLine - 1) / kLine * kLine),
        numbers_(n_workers * pitch_, "the scratch memory of the threads") {}
  T* of(int64_t worker) const { return numbers_.get() + worker * pitch_; }

 private:
  static constexpr int64_t kLine = AlignedArray<T>::kAlignment / sizeof(T);

  int64_t pitch_;
  AlignedArray<T> numbers_;
};

}  // namespace jgd::cpu
