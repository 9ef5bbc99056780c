// Vectors to and from arrays: without alignment, in part, and interleaved like the channels of
// pixels. Compiled once per instruction set, like simd.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/simd.h"

namespace jgd::cpu::JGD_ISA {

template <typename T>
inline typename Simd<T>::V load(const T* data) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(data);
}

template <typename T>
inline void store(T* data, typename Simd<T>::V v) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(data) = v;
}

// n <= kLanes numbers, `stride` apart; the other lanes are 0.
template <typename T>
inline typename Simd<T>::V load_part(const T* data, int n, int64_t stride = 1) {
  typename Simd<T>::V v{};
  for (int i = 0; i < n; ++i) v[i] = data[i * stride];
  return v;
}

template <typename T>
inline void store_part(T* data, typename Simd<T>::V v, int n, int64_t stride = 1) {
  for (int i = 0; i < n; ++i) data[i * stride] = v[i];
}

// Number p of kLanes * kWidth interleaved numbers is component p % kWidth of element p / kWidth; the
// numbers fill kWidth vectors. Vector `kVector` of them, from the components 0..kComponent:
template <int kWidth, int kVector, int kComponent, typename V, int... kLane>
inline V interleaved(const V* components, std::integer_sequence<int, kLane...> lanes) {
  constexpr int n = sizeof...(kLane);
  if constexpr (kComponent == 0) {
    return __builtin_shufflevector(components[0], components[0],
                                   ((kVector * n + kLane) / kWidth)...);
  } else {
    const V before = interleaved<kWidth, kVector, kComponent - 1>(components, lanes);
    return __builtin_shufflevector(before, components[kComponent],
                                   ((kVector * n + kLane) % kWidth == kComponent
                                        ? n + (kVector * n + kLane) / kWidth
                                        : kLane)...);
  }
}

// Component `kComponent`, from the vectors 0..kVector.
template <int kWidth, int kComponent, int kVector, typename V, int... kLane>
inline V deinterleaved(const V* vectors, std::integer_sequence<int, kLane...> lanes) {
  constexpr int n = sizeof...(kLane);
  if constexpr (kVector == 0) {
    return __builtin_shufflevector(vectors[0], vectors[0], ((kLane * kWidth + kComponent) % n)...);
  } else {
    const V before = deinterleaved<kWidth, kComponent, kVector - 1>(vectors, lanes);
    return __builtin_shufflevector(before, vectors[kVector],
                                   ((kLane * kWidth + kComponent) / n == kVector
                                        ? n + (kLane * kWidth + kComponent) % n
                                        : kLane)...);
  }
}

template <typename T, int... kIndex>
inline void store_interleaved_at(T* data, const typename Simd<T>::V* components,
                                 std::integer_sequence<int, kIndex...>) {
  constexpr int kWidth = sizeof...(kIndex);
  constexpr int n = Simd<T>::kLanes;
  const std::make_integer_sequence<int, n> lanes;
  (store(data + kIndex * n, interleaved<kWidth, kIndex, kWidth - 1>(components, lanes)), ...);
}

template <typename T, int... kIndex>
inline void load_interleaved_at(const T* data, typename Simd<T>::V* components,
                                std::integer_sequence<int, kIndex...>) {
  constexpr int kWidth = sizeof...(kIndex);
  constexpr int n = Simd<T>::kLanes;
  const std::make_integer_sequence<int, n> lanes;
  const typename Simd<T>::V vectors[] = {load(data + kIndex * n)...};
  ((components[kIndex] = deinterleaved<kWidth, kIndex, kWidth - 1>(vectors, lanes)), ...);
}

// kLanes elements of kWidth numbers each, one vector for each component.
template <int kWidth, typename T>
inline void load_interleaved(const T* data, typename Simd<T>::V (&components)[kWidth]) {
  load_interleaved_at(data, components, std::make_integer_sequence<int, kWidth>());
}

template <int kWidth, typename T>
inline void store_interleaved(T* data, const typename Simd<T>::V (&components)[kWidth]) {
  store_interleaved_at(data, components, std::make_integer_sequence<int, kWidth>());
}

// Lanes without bit kBit: a + (a with kBit flipped); the others: b likewise.
template <int kBit, typename V, int... kLane>
inline V add_halves(V a, V b, std::integer_sequence<int, kLane...>) {
  constexpr int n = sizeof...(kLane);
  return __builtin_shufflevector(a, b, (kLane & kBit ? n + kLane : kLane)...) +
         __builtin_shufflevector(a, b, (kLane & kBit ? n + kLane - kBit : kLane + kBit)...);
}

template <int kBit, typename V, int... kLane>
inline V sums_of_lanes(V* v, std::integer_sequence<int, kLane...> lanes) {
  if constexpr (kBit == 0) {
    return v[0];
  } else {
    for (int i = 0; i < kBit; ++i) v[i] = add_halves<kBit>(v[i], v[i + kBit], lanes);
    return sums_of_lanes<kBit / 2>(v, lanes);
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
    const typename Simd<T>::V sums =
        sums_of_lanes<n / 2>(group, std::make_integer_sequence<int, n>());
    std::memcpy(data + first, &sums, std::min(n, kVectors - first) * sizeof(T));
  }
}

}  // namespace jgd::cpu::JGD_ISA
