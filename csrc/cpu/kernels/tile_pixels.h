// Loads and stores the pixels of a tile; one vector holds consecutive pixels of a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels/blend.h"
#include "cpu/simd/interleave.h"
#include "cpu/simd/vector.h"

namespace jgd::cpu::JGD_ISA {

// A tile is kColumns vectors wide and kTileSize rows high.
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

template <typename T>
inline typename Lanes<T>::V load_pixels(const T* data, int n_lanes) {
  typename Lanes<T>::V v;
  load_fields<1>(data, n_lanes, &v);
  return v;
}

template <typename T>
inline void store_pixels(T* data, typename Lanes<T>::V v, int n_lanes) {
  store_fields<1>(data, n_lanes, &v);
}

// Prefetches the memory that a row of pixels of the tile is written to much later.
template <typename T>
inline void prefetch_pixels(const T* data, int64_t pixel, int64_t width) {
  if (!data) return;
  // As a number, because at the border of the image the address may lie outside the array.
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
    load_fields<kChannels>(data, n_lanes, v);
  } else {
    for (int64_t d = 0; d < n_channels; ++d) v[d] = load_strided(data + d, n_lanes, n_channels);
  }
}

template <int kChannels, typename T>
inline void store_channels(T* data, const typename Lanes<T>::V* v, int n_lanes,
                           int64_t n_channels) {
  if constexpr (kChannels > 0) {
    store_fields<kChannels>(data, n_lanes, v);
  } else {
    for (int64_t d = 0; d < n_channels; ++d) store_strided(data + d, v[d], n_lanes, n_channels);
  }
}

// Calls body with the number of channels as a compile-time constant, or with -1 if no kernel is
// compiled for this number.
template <typename Body>
inline void with_channels(int64_t n_channels, const Body& body) {
  switch (n_channels) {
    case 0:
      return body(std::integral_constant<int, 0>());
    case 1:
      return body(std::integral_constant<int, 1>());
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    default:
      return body(std::integral_constant<int, -1>());
  }
}

// Calls body(first pixel, row, column, number of lanes) for each vector of the tile. The lanes are
// those that lie in the image.
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
