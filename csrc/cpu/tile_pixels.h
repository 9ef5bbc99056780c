// A tile as the kernels see it: one vector holds consecutive pixels of a row. Compiled once per
// instruction set, like simd.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/blend_tile.h"
#include "cpu/interleave.h"
#include "cpu/simd.h"

namespace jgd::cpu::JGD_ISA {

// kColumns vectors beside each other, kTileSize rows.
template <typename T>
struct Lanes {
  using V = typename Simd<T>::V;
  using I = typename Simd<T>::I;
  using M = typename Simd<T>::M;
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kColumns = kTileSize / kLanes;
};

// Calls body(row) for each bit.
template <typename Body>
inline void for_each_row(uint32_t rows, const Body& body) {
  for (; rows; rows &= rows - 1) body(__builtin_ctz(rows));
}

// Coordinates of the pixel centres of a tile: x by column of vectors, y by row.
template <typename T>
struct PixelCenters {
  typename Lanes<T>::V x[Lanes<T>::kColumns];
  typename Lanes<T>::V y[Lanes<T>::kColumns];  // kTileSize rows, consecutive
  explicit PixelCenters(const Tile<T>& tile) {
    for (int j = 0; j < kTileSize; ++j) {
      x[j / Lanes<T>::kLanes][j % Lanes<T>::kLanes] = T(tile.x + j) + T(0.5);
      y[j / Lanes<T>::kLanes][j % Lanes<T>::kLanes] = T(tile.y + j) + T(0.5);
    }
  }
};

// As many 32-bit integers as a vector has lanes, at any address.
template <typename T>
using Int32s __attribute__((vector_size(4 * Lanes<T>::kLanes), may_alias, aligned(4))) = int32_t;

template <typename T>
inline typename Lanes<T>::V load_pixels(const T* data, int n_lanes) {
  return n_lanes == Lanes<T>::kLanes ? load(data) : load_part(data, n_lanes);
}

template <typename T>
inline void store_pixels(T* data, typename Lanes<T>::V v, int n_lanes) {
  if (n_lanes == Lanes<T>::kLanes) return store(data, v);
  store_part(data, v, n_lanes);
}

// Asks for the memory that a row of pixels of the tile is written to, long before that.
template <typename T>
inline void prefetch_pixels(const T* data, int64_t pixel, int64_t width) {
  if (!data) return;
  // As a number: at the border of the image it may lie outside of the array.
  const auto begin = reinterpret_cast<uintptr_t>(data) + pixel * width * sizeof(T);
  const int64_t size = std::min<int64_t>(sizeof(T) * kTileSize * width, 1024);
  for (int64_t i = 0; i < size; i += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(begin + i), 1);
  }
}

// kChannels < 0: any number, known at run time.
template <int kChannels, typename T>
inline void load_channels(const T* data, int n_lanes, int64_t n_channels, typename Lanes<T>::V* v) {
  if constexpr (kChannels > 0) {
    using Components = typename Lanes<T>::V[kChannels];
    if (n_lanes == Lanes<T>::kLanes) {
      return load_interleaved<kChannels>(data, *reinterpret_cast<Components*>(v));
    }
  }
  for (int64_t d = 0; d < n_channels; ++d) v[d] = load_part(data + d, n_lanes, n_channels);
}

template <int kChannels, typename T>
inline void store_channels(T* data, const typename Lanes<T>::V* v, int n_lanes,
                           int64_t n_channels) {
  if constexpr (kChannels > 0) {
    using Components = const typename Lanes<T>::V[kChannels];
    if (n_lanes == Lanes<T>::kLanes) {
      return store_interleaved<kChannels>(data, *reinterpret_cast<Components*>(v));
    }
  }
  for (int64_t d = 0; d < n_channels; ++d) store_part(data + d, v[d], n_lanes, n_channels);
}

template <typename T>
inline typename Lanes<T>::I load_ints(const int32_t* data, int n_lanes) {
  using I = typename Lanes<T>::I;
  if (n_lanes == Lanes<T>::kLanes) {
    return __builtin_convertvector(*reinterpret_cast<const Int32s<T>*>(data), I);
  }
  I v{};
  for (int i = 0; i < n_lanes; ++i) v[i] = data[i];
  return v;
}

template <typename T>
inline void store_ints(int32_t* data, typename Lanes<T>::I v, int n_lanes) {
  if (n_lanes == Lanes<T>::kLanes) {
    *reinterpret_cast<Int32s<T>*>(data) = __builtin_convertvector(v, Int32s<T>);
    return;
  }
  for (int i = 0; i < n_lanes; ++i) data[i] = static_cast<int32_t>(v[i]);
}

// Calls body(first pixel, row, column, number of lanes) for the vectors of the tile, or the part of
// them that lies in the image.
template <typename T, typename Body>
inline void for_each_vector(const Tile<T>& tile, const Body& body) {
  constexpr int kLanes = Lanes<T>::kLanes;
  const int n_rows = std::min(kTileSize, tile.height - tile.y);
  const int n_columns = std::min(kTileSize, tile.width - tile.x);
  for (int row = 0; row < n_rows; ++row) {
    const int64_t first = int64_t{tile.y + row} * tile.width + tile.x;
    for (int j = 0; j < n_columns; j += kLanes) {
      body(first + j, row, j / kLanes, std::min(kLanes, n_columns - j));
    }
  }
}

}  // namespace jgd::cpu::JGD_ISA
