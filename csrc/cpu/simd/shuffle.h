// Exchanges lanes between vectors, by patterns that are known at compile time.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "cpu/simd/vector.h"

namespace jgd::cpu::JGD_ISA {

template <typename Pattern, typename V, size_t... k>
inline V shuffle_lanes(V a, V b, std::index_sequence<k...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Pattern::at(k, sizeof...(k))...);
#else
  using I = typename Simd<std::decay_t<decltype(a[0])>>::I;
  return __builtin_shuffle(a, b, I{Pattern::at(k, sizeof...(k))...});
#endif
}

// Lane k of the result is element Pattern::at(k, number of lanes) of a followed by b.
template <typename Pattern, typename V>
inline V shuffle(V a, V b) {
  return shuffle_lanes<Pattern>(a, b, std::make_index_sequence<sizeof(V) / sizeof(a[0])>{});
}

// The lower or the upper half of each group of kWidth lanes: first the half of a, then that of b.
template <int kWidth, bool kUpper>
struct HalvesOfGroups {
  static constexpr int at(int k, int n_lanes) {
    const int group = k - k % kWidth, lane = k % kWidth;
    const int upper = kUpper ? kWidth / 2 : 0;
    return group + upper + (lane < kWidth / 2 ? lane : lane - kWidth / 2 + n_lanes);
  }
};

// Transposes a square of numbers in place: as many vectors as a vector has lanes. Blocks beside the
// diagonal change places, from half the size down to one lane.
template <int kWidth, typename V>
inline void transpose_groups(V* v) {
  if constexpr (kWidth > 1) {
    constexpr int kLanes = sizeof(V) / sizeof((*v)[0]);
    for (int group = 0; group < kLanes; group += kWidth) {
      for (int i = group; i < group + kWidth / 2; ++i) {
        const V a = v[i], b = v[i + kWidth / 2];
        v[i] = shuffle<HalvesOfGroups<kWidth, false>>(a, b);
        v[i + kWidth / 2] = shuffle<HalvesOfGroups<kWidth, true>>(a, b);
      }
    }
    transpose_groups<kWidth / 2>(v);
  }
}

template <typename V>
inline void transpose(V* v) {
  transpose_groups<sizeof(V) / sizeof((*v)[0])>(v);
}

// Lane k of the result is the sum of the lanes of v[k]; there are as many vectors as lanes. Each
// step adds halves of all vectors at once, in a fixed order.
template <int kWidth, typename V>
inline V sum_each_of_groups(const V* v) {
  if constexpr (kWidth == 1) {
    return *v;
  } else {
    V sums[kWidth / 2];
    for (int i = 0; i < kWidth / 2; ++i) {
      sums[i] = shuffle<HalvesOfGroups<kWidth, false>>(v[i], v[i + kWidth / 2]) +
                shuffle<HalvesOfGroups<kWidth, true>>(v[i], v[i + kWidth / 2]);
    }
    return sum_each_of_groups<kWidth / 2>(sums);
  }
}

template <typename V>
inline V sum_each(const V* v) {
  return sum_each_of_groups<sizeof(V) / sizeof((*v)[0])>(v);
}

}  // namespace jgd::cpu::JGD_ISA
