// Loads and stores of packs: the functions of stages/load.h for kLanes consecutive records of an
// array, or for the first n of them at its end. Nothing else is read or written; the lanes beyond n
// are 0.
//
// Records have few fields of one type, [N, 3]: they are loaded as they lie and taken apart by
// shuffles in registers.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/pack.h"
#include "cpu/simd_shuffle.h"
#include "math/vec.h"

namespace jgd::cpu::JGD_ISA {

// Two fields: a b a b ... to and from a a ..., b b ...
template <int kField>
struct EverySecond {
  static constexpr int at(int k, int) { return 2 * k + kField; }
};
template <int kHalf>
struct Alternate {
  static constexpr int at(int k, int n) { return k / 2 + kHalf * n / 2 + k % 2 * n; }
};

// Three fields in three vectors, in two steps: what the first two vectors have of a field, then the
// rest of it; and the first two fields of a vector, then the third.
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

template <typename Pattern, typename T>
inline Pack<T> shuffle(Pack<T> a, Pack<T> b) {
  return Pack<T>(shuffle<Pattern>(a.v, b.v));
}

// kFields vectors of records to one vector for each field, in place.
template <int kFields, typename T>
inline void deinterleave(Pack<T>* v) {
  if constexpr (kFields == 3) {
    const Pack<T> x = shuffle<EveryThirdOfTwo<0>>(v[0], v[1]);
    const Pack<T> y = shuffle<EveryThirdOfTwo<1>>(v[0], v[1]);
    const Pack<T> z = shuffle<EveryThirdOfTwo<2>>(v[0], v[1]);
    const Pack<T> last = v[2];
    v[0] = shuffle<EveryThirdOfLast<0>>(x, last);
    v[1] = shuffle<EveryThirdOfLast<1>>(y, last);
    v[2] = shuffle<EveryThirdOfLast<2>>(z, last);
  } else if constexpr (kFields > 1) {
    static_assert(kFields % 2 == 0);
    Pack<T> even[kFields / 2], odd[kFields / 2];
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

// The inverse.
template <int kFields, typename T>
inline void interleave(Pack<T>* v) {
  if constexpr (kFields == 3) {
    const Pack<T> first = shuffle<FirstTwoFields<0>>(v[0], v[1]);
    const Pack<T> second = shuffle<FirstTwoFields<1>>(v[0], v[1]);
    const Pack<T> third = shuffle<FirstTwoFields<2>>(v[0], v[1]);
    const Pack<T> z = v[2];
    v[0] = shuffle<ThirdField<0>>(first, z);
    v[1] = shuffle<ThirdField<1>>(second, z);
    v[2] = shuffle<ThirdField<2>>(third, z);
  } else if constexpr (kFields > 1) {
    static_assert(kFields % 2 == 0);
    Pack<T> even[kFields / 2], odd[kFields / 2];
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

// The fields of n <= kLanes records that begin at `data`.
template <int kFields, typename T>
inline void load_fields(const T* data, int n, Pack<T>* fields) {
  if (n == Simd<T>::kLanes) {
    std::memcpy(fields, data, kFields * sizeof(Pack<T>));
  } else {
    T padded[kFields * Simd<T>::kLanes] = {};
    std::memcpy(padded, data, n * kFields * sizeof(T));
    std::memcpy(fields, padded, sizeof(padded));
  }
  deinterleave<kFields>(fields);
}

// Writes n records.
template <int kFields, typename T>
inline void store_fields(T* data, int n, Pack<T>* fields) {
  interleave<kFields>(fields);
  if (n == Simd<T>::kLanes) {
    std::memcpy(data, fields, kFields * sizeof(Pack<T>));
  } else {
    std::memcpy(data, fields, n * kFields * sizeof(T));
  }
}

// The first kCount numbers; the other lanes are 0.
template <int kCount, typename T>
inline typename Simd<T>::V load_first(const T* data) {
  typename Simd<T>::V v{};
#if JGD_AVX512
  if constexpr (kCount < Simd<T>::kLanes && sizeof(T) == 4) {
    return (typename Simd<T>::V)_mm512_maskz_loadu_ps((1u << kCount) - 1, data);
  } else if constexpr (kCount < Simd<T>::kLanes) {
    return (typename Simd<T>::V)_mm512_maskz_loadu_pd((1u << kCount) - 1, data);
  }
#endif
  std::memcpy(&v, data, kCount * sizeof(T));
  return v;
}

template <typename T>
inline Pack<T> load(const T* data, int64_t i, int n) {
  Pack<T> v;
  load_fields<1>(data + i, n, &v);
  return v;
}

template <typename T>
inline void store(T* data, int64_t i, int n, Pack<T> v) {
  store_fields<1>(data + i, n, &v);
}

template <typename T>
inline Vec2<Pack<T>> load_vec2(const T* data, int64_t i, int n) {
  Pack<T> v[2];
  load_fields<2>(data + 2 * i, n, v);
  return {v[0], v[1]};
}

template <typename T>
inline Vec3<Pack<T>> load_vec3(const T* data, int64_t i, int n) {
  Pack<T> v[3];
  load_fields<3>(data + 3 * i, n, v);
  return {v[0], v[1], v[2]};
}

template <typename T>
inline Quat<Pack<T>> load_quat(const T* data, int64_t i, int n) {
  Pack<T> v[4];
  load_fields<4>(data + 4 * i, n, v);
  return {v[0], v[1], v[2], v[3]};
}

template <typename T>
inline Sym2<Pack<T>> load_sym2(const T* data, int64_t i, int n) {
  const Vec3<Pack<T>> v = load_vec3(data, i, n);
  return {v.x, v.y, v.z};
}

template <typename T>
inline Sym3<Pack<T>> load_sym3(const T* data, int64_t i, int n) {
  Pack<T> v[6];
  load_fields<6>(data + 6 * i, n, v);
  return {v[0], v[1], v[2], v[3], v[4], v[5]};
}

template <typename T>
inline PackInt<T> load_int(const int32_t* data, int64_t i, int n) {
  typename PackInt<T>::I v{};
  if constexpr (sizeof(T) == sizeof(int32_t)) {
    if (n == Simd<T>::kLanes) {
      std::memcpy(&v, data + i, sizeof(v));
      return PackInt<T>(v);
    }
  }
  for (int lane = 0; lane < n; ++lane) v[lane] = data[i + lane];
  return PackInt<T>(v);
}

template <typename T>
inline void store_vec2(T* data, int64_t i, int n, const Vec2<Pack<T>>& a) {
  Pack<T> v[2] = {a.x, a.y};
  store_fields<2>(data + 2 * i, n, v);
}

template <typename T>
inline void store_vec3(T* data, int64_t i, int n, const Vec3<Pack<T>>& a) {
  Pack<T> v[3] = {a.x, a.y, a.z};
  store_fields<3>(data + 3 * i, n, v);
}

template <typename T>
inline void store_quat(T* data, int64_t i, int n, const Quat<Pack<T>>& a) {
  Pack<T> v[4] = {a.w, a.x, a.y, a.z};
  store_fields<4>(data + 4 * i, n, v);
}

template <typename T>
inline void store_sym2(T* data, int64_t i, int n, const Sym2<Pack<T>>& a) {
  Pack<T> v[3] = {a.xx, a.xy, a.yy};
  store_fields<3>(data + 3 * i, n, v);
}

template <typename T>
inline void store_sym3(T* data, int64_t i, int n, const Sym3<Pack<T>>& a) {
  Pack<T> v[6] = {a.xx, a.xy, a.xz, a.yy, a.yz, a.zz};
  store_fields<6>(data + 6 * i, n, v);
}

template <typename T>
inline void store_int(int32_t* data, int64_t i, int n, PackInt<T> a) {
  if constexpr (sizeof(T) == sizeof(int32_t)) {
    if (n == Simd<T>::kLanes) {
      std::memcpy(data + i, &a.i, sizeof(a.i));
      return;
    }
  }
  for (int lane = 0; lane < n; ++lane) data[i + lane] = static_cast<int32_t>(a.i[lane]);
}

}  // namespace jgd::cpu::JGD_ISA
