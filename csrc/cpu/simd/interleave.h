// Moves vectors to and from arrays: at any address, in part, and interleaved.
//
// The fields of records and the channels of pixels are loaded as they lie in memory and taken apart
// by shuffles in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/simd/shuffle.h"
#include "cpu/simd/vector.h"

namespace jgd::cpu::JGD_ISA {

template <typename T>
inline void store(T* data, typename Simd<T>::V v) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(data) = v;
}

// n <= kLanes numbers, `stride` apart; the other lanes are 0.
template <typename T>
inline typename Simd<T>::V load_strided(const T* data, int n, int64_t stride) {
  typename Simd<T>::V v{};
  for (int i = 0; i < n; ++i) v[i] = data[i * stride];
  return v;
}

template <typename T>
inline void store_strided(T* data, typename Simd<T>::V v, int n, int64_t stride) {
  for (int i = 0; i < n; ++i) data[i * stride] = v[i];
}

// n <= kLanes integers of 32 bits, as wide as T; the other lanes are 0.
template <typename T>
inline typename Simd<T>::I load_ints(const int32_t* data, int n) {
  constexpr int kLanes = Simd<T>::kLanes;
  typedef int32_t Ints __attribute__((vector_size(4 * kLanes), may_alias));
  Ints v{};
  if (n == kLanes) {
    std::memcpy(&v, data, sizeof(v));
  } else {
    std::memcpy(&v, data, n * sizeof(int32_t));
  }
  return __builtin_convertvector(v, typename Simd<T>::I);
}

template <typename T>
inline void store_ints(int32_t* data, typename Simd<T>::I v, int n) {
  constexpr int kLanes = Simd<T>::kLanes;
  typedef int32_t Ints __attribute__((vector_size(4 * kLanes), may_alias));
  const Ints ints = __builtin_convertvector(v, Ints);
  if (n == kLanes) {
    std::memcpy(data, &ints, sizeof(ints));
  } else {
    std::memcpy(data, &ints, n * sizeof(int32_t));
  }
}

// Patterns for two fields: from a b a b ... to a a ..., b b ..., and back.
template <int kField>
struct EverySecond {
  static constexpr int at(int k, int) { return 2 * k + kField; }
};
template <int kHalf>
struct Alternate {
  static constexpr int at(int k, int n) { return k / 2 + kHalf * n / 2 + k % 2 * n; }
};

// Patterns for three fields in three vectors, in two steps each way. First the part of a field that
// is in the first two vectors, then the rest; back, the first two fields of a vector, then the
// third.
template <int kField>
struct EveryThirdOfTwo {
  static constexpr int at(int k, int n) { return 3 * k + kField < 2 * n ? 3 * k + kField : 0; }
};
template <int kField>
struct EveryThirdOfLast {
  static constexpr int at(int k, int n) { return 3 * k + kField < 2 * n ? k : 3 * k + kField - n; }
};
template <int kVector>
struct FirstTwoFields {
  static constexpr int at(int k, int n) {
    const int element = kVector * n + k;
    return element % 3 < 2 ? element / 3 + element % 3 * n : 0;
  }
};
template <int kVector>
struct ThirdField {
  static constexpr int at(int k, int n) {
    const int element = kVector * n + k;
    return element % 3 < 2 ? k : element / 3 + n;
  }
};

// Turns kFields vectors of consecutive records into one vector for each field, in place.
template <int kFields, typename V>
inline void deinterleave(V* v) {
  if constexpr (kFields == 3) {
    const V x = shuffle<EveryThirdOfTwo<0>>(v[0], v[1]);
    const V y = shuffle<EveryThirdOfTwo<1>>(v[0], v[1]);
    const V z = shuffle<EveryThirdOfTwo<2>>(v[0], v[1]);
    const V last = v[2];
    v[0] = shuffle<EveryThirdOfLast<0>>(x, last);
    v[1] = shuffle<EveryThirdOfLast<1>>(y, last);
    v[2] = shuffle<EveryThirdOfLast<2>>(z, last);
  } else if constexpr (kFields > 1) {
    static_assert(kFields % 2 == 0);
    V even[kFields / 2], odd[kFields / 2];
    for (int i = 0; i < kFields / 2; ++i) {
      even[i] = shuffle<EverySecond<0>>(v[2 * i], v[2 * i + 1]);
      odd[i] = shuffle<EverySecond<1>>(v[2 * i], v[2 * i + 1]);
    }
    deinterleave<kFields / 2>(even);
    deinterleave<kFields / 2>(odd);
    for (int i = 0; i < kFields / 2; ++i) {
      v[2 * i] = even[i];
      v[2 * i + 1] = odd[i];
    }
  }
}

// The inverse of deinterleave.
template <int kFields, typename V>
inline void interleave(V* v) {
  if constexpr (kFields == 3) {
    const V first = shuffle<FirstTwoFields<0>>(v[0], v[1]);
    const V second = shuffle<FirstTwoFields<1>>(v[0], v[1]);
    const V third = shuffle<FirstTwoFields<2>>(v[0], v[1]);
    const V z = v[2];
    v[0] = shuffle<ThirdField<0>>(first, z);
    v[1] = shuffle<ThirdField<1>>(second, z);
    v[2] = shuffle<ThirdField<2>>(third, z);
  } else if constexpr (kFields > 1) {
    static_assert(kFields % 2 == 0);
    V even[kFields / 2], odd[kFields / 2];
    for (int i = 0; i < kFields / 2; ++i) {
      even[i] = v[2 * i];
      odd[i] = v[2 * i + 1];
    }
    interleave<kFields / 2>(even);
    interleave<kFields / 2>(odd);
    for (int i = 0; i < kFields / 2; ++i) {
      v[2 * i] = shuffle<Alternate<0>>(even[i], odd[i]);
      v[2 * i + 1] = shuffle<Alternate<1>>(even[i], odd[i]);
    }
  }
}

// n <= kLanes records of kFields numbers, one vector for each field; the other lanes are 0. Nothing
// else is read or written.
template <int kFields, typename T>
inline void load_fields(const T* data, int n, typename Simd<T>::V* fields) {
  if (n == Simd<T>::kLanes) {
    std::memcpy(fields, data, kFields * sizeof(*fields));
  } else {
    T padded[kFields * Simd<T>::kLanes] = {};
    std::memcpy(padded, data, n * kFields * sizeof(T));
    std::memcpy(fields, padded, sizeof(padded));
  }
  deinterleave<kFields>(fields);
}

template <int kFields, typename T>
inline void store_fields(T* data, int n, const typename Simd<T>::V* fields) {
  typename Simd<T>::V v[kFields];
  std::memcpy(v, fields, sizeof(v));
  interleave<kFields>(v);
  if (n == Simd<T>::kLanes) {
    std::memcpy(data, v, sizeof(v));
  } else {
    std::memcpy(data, v, n * kFields * sizeof(T));
  }
}

// Writes the sum of the lanes of each vector, in the order of `sum`: kLanes of them at a time are
// folded into one vector.
template <int kVectors, typename T>
inline void store_sums(T* data, const typename Simd<T>::V (&v)[kVectors]) {
  constexpr int n = Simd<T>::kLanes;
  for (int first = 0; first < kVectors; first += n) {
    typename Simd<T>::V group[n] = {};
    for (int i = 0; i < n && first + i < kVectors; ++i) group[i] = v[first + i];
    const typename Simd<T>::V sums = sum_each(group);
    std::memcpy(data + first, &sums, std::min(n, kVectors - first) * sizeof(T));
  }
}

}  // namespace jgd::cpu::JGD_ISA
