// Allocates the memory of the drivers; what cannot be had says how much was wanted, and for what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

namespace jgd::cpu {

// Thrown where there is no memory. Owns none itself.
class OutOfMemory final : public std::bad_alloc {
 public:
  OutOfMemory(int64_t bytes, const char* purpose) {
    std::snprintf(what_, sizeof(what_), "out of memory: %lld bytes were wanted for %s",
                  static_cast<long long>(bytes), purpose);
  }
  const char* what() const noexcept override { return what_; }

 private:
  char what_[128];
};

// The allocator of Vector.
template <typename T>
struct PurposeAllocator {
  using value_type = T;
  using is_always_equal = std::true_type;

  const char* purpose;

  PurposeAllocator(const char* purpose) : purpose(purpose) {}
  template <typename Other>
  PurposeAllocator(const PurposeAllocator<Other>& other) : purpose(other.purpose) {}

  T* allocate(size_t n) {
    static_assert(alignof(T) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
    void* memory = ::operator new(n * sizeof(T), std::nothrow);
    if (!memory) throw OutOfMemory(static_cast<int64_t>(n * sizeof(T)), purpose);
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t) { ::operator delete(memory); }

  friend bool operator==(const PurposeAllocator&, const PurposeAllocator&) { return true; }
  friend bool operator!=(const PurposeAllocator&, const PurposeAllocator&) { return false; }
};

// A std::vector that is made with its purpose: Vector<int> counts(n, "the counts of the tiles").
template <typename T>
using Vector = std::vector<T, PurposeAllocator<T>>;

// An uninitialised array of plain data, of a size that does not change.
template <typename T>
using Array = std::unique_ptr<T[]>;

template <typename T>
Array<T> make_array(int64_t n, const char* purpose) {
  static_assert(std::is_trivially_default_constructible_v<T>);
  T* memory = new (std::nothrow) T[static_cast<size_t>(n)];
  if (!memory) throw OutOfMemory(n * static_cast<int64_t>(sizeof(T)), purpose);
  return Array<T>(memory);
}

}  // namespace jgd::cpu
