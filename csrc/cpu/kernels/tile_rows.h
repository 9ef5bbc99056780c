// Finds the rows of a tile that a splat reaches, and the terms of its exponent that are constant
// along each row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/kernels/tile_pixels.h"
#include "cpu/simd/interleave.h"
#include "cpu/simd/vector.h"
#include "math/constants.h"

namespace jgd::cpu::JGD_ISA {

// The exponent of a splat along a row of the tile is dx (xx dx + along) + offset: log2_alpha of
// math/blend.h with the terms that depend on the row alone taken out of the loop.
template <typename T>
struct RowTerms {
  alignas(64) T along[kTileSize];
  alignas(64) T offset[kTileSize];
  alignas(64) T dy[kTileSize];
};

template <typename V, typename T>
inline V log2_alpha(T xx, V dx, T along, T offset) {
  return fma(dx, fma(splat(xx), dx, splat(along)), splat(offset));
}

// The lanes where the splat is seen: alpha >= 1/255 and sigma >= 0, tested before an exponential is
// spent on them.
template <typename V, typename T>
inline auto seen(T log2_opacity, V exponent) {
  return less_equal(splat(T(kLog2AlphaMin)), exponent) & less_equal(exponent, splat(log2_opacity));
}

// Writes the terms of all rows, and for each column of vectors the rows in which a pixel may see
// the splat. No such row is left out.
//
// The exponent is concave along a row, so its maximum is at its vertex or at the nearer end.
// Rounding is a few eps of the largest terms anywhere in the row. The bound is NaN only where the
// exponents of the pixels are NaN too, and such pixels see nothing.
template <typename T>
inline void find_rows(const TileSplat<T>& s, const PixelCenters<T>& centers, RowTerms<T>& terms,
                      uint32_t (&rows)[Lanes<T>::kColumns]) {
  using V = typename Lanes<T>::V;
  constexpr int kLanes = Lanes<T>::kLanes;
  constexpr int kColumns = Lanes<T>::kColumns;
  const Exponent<T>& e = s.exponent;
  const bool concave = e.xx < T(-1e-30);  // and not so nearly flat that s.vertex overflows
  for (uint32_t& r : rows) r = 0;
  for (int i = 0; i < kColumns; ++i) {
    const V dy = centers.y[i] - s.center.y;
    const V yy_dy = e.yy * dy;
    const V along = e.xy * dy;
    const V offset = fma(yy_dy, dy, splat(e.log2_opacity));
    store(terms.dy + i * kLanes, dy);
    store(terms.along + i * kLanes, along);
    store(terms.offset + i * kLanes, offset);
    const V terms_y = fma(absolute(yy_dy), absolute(dy), splat(std::fabs(e.log2_opacity)));
    for (int j = 0; j < kColumns; ++j) {
      const T left = centers.x[j][0] - s.center.x;
      const T right = centers.x[j][kLanes - 1] - s.center.x;
      const T far = std::max(std::fabs(left), std::fabs(right));
      const V dx = minimum(maximum(along * s.vertex, splat(left)), splat(right));
      const V highest = fma(dx, fma(splat(e.xx), dx, along), offset);
      const V all_terms = fma(absolute(along), splat(far), terms_y + std::fabs(e.xx) * far * far);
      const V bound = fma(all_terms, splat(T(16) * kEpsilon<T>), highest);
      rows[j] |= bits(less_equal(splat(T(kLog2AlphaMin)), bound)) << (i * kLanes);
    }
  }
  if (!concave) {
    for (uint32_t& r : rows) r = (uint32_t{1} << kTileSize) - 1;
  }
}

}  // namespace jgd::cpu::JGD_ISA
