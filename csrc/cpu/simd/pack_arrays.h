// Loads and stores packs: the functions of stages/load.h for n <= kLanes consecutive records of an
// array. Nothing else is read or written; the lanes beyond n are 0.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/simd/interleave.h"
#include "cpu/simd/pack.h"
#include "math/vec.h"

namespace jgd::cpu::JGD_ISA {

template <int kFields, typename T>
inline void load_fields(const T* data, int n, Pack<T>* fields) {
  typename Pack<T>::V v[kFields];
  load_fields<kFields>(data, n, v);
  for (int f = 0; f < kFields; ++f) fields[f].v = v[f];
}

template <int kFields, typename T>
inline void store_fields(T* data, int n, const Pack<T>* fields) {
  typename Pack<T>::V v[kFields];
  for (int f = 0; f < kFields; ++f) v[f] = fields[f].v;
  store_fields<kFields>(data, n, v);
}

// The number of indices from i that the pack at i holds: kLanes, or fewer at the end of a range.
template <typename T>
inline int pack_size(int64_t i, int64_t end) {
  constexpr int kLanes = Simd<T>::kLanes;
  return end - i < kLanes ? static_cast<int>(end - i) : kLanes;
}

// Loads kCount numbers into the first lanes; the other lanes are 0.
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
  return PackInt<T>(load_ints<T>(data + i, n));
}

template <typename T>
inline void store_vec2(T* data, int64_t i, int n, const Vec2<Pack<T>>& a) {
  const Pack<T> v[2] = {a.x, a.y};
  store_fields<2>(data + 2 * i, n, v);
}

template <typename T>
inline void store_vec3(T* data, int64_t i, int n, const Vec3<Pack<T>>& a) {
  const Pack<T> v[3] = {a.x, a.y, a.z};
  store_fields<3>(data + 3 * i, n, v);
}

template <typename T>
inline void store_quat(T* data, int64_t i, int n, const Quat<Pack<T>>& a) {
  const Pack<T> v[4] = {a.w, a.x, a.y, a.z};
  store_fields<4>(data + 4 * i, n, v);
}

template <typename T>
inline void store_sym2(T* data, int64_t i, int n, const Sym2<Pack<T>>& a) {
  const Pack<T> v[3] = {a.xx, a.xy, a.yy};
  store_fields<3>(data + 3 * i, n, v);
}

template <typename T>
inline void store_sym3(T* data, int64_t i, int n, const Sym3<Pack<T>>& a) {
  const Pack<T> v[6] = {a.xx, a.xy, a.xz, a.yy, a.yz, a.zz};
  store_fields<6>(data + 6 * i, n, v);
}

template <typename T>
inline void store_int(int32_t* data, int64_t i, int n, PackInt<T> a) {
  store_ints<T>(data + i, a.i, n);
}

}  // namespace jgd::cpu::JGD_ISA
