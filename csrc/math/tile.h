// Tiles: which 16x16 tiles a splat can touch. Used by counting and emitting alike, so the two can
// never disagree.
//
// Invariant for the exact footprint: every pixel with alpha >= 1/255 lies in a listed tile, in
// floating point too, because the ellipse is enlarged by more than the rounding error of the
// exponent. A list may hold a few tiles more than needed; it never holds fewer, so tiles cannot
// change an image.
#pragma once

#include <cmath>
#include <limits>

#include "math/constants.h"
#include "math/hd.h"
#include "math/splat.h"
#include "math/vec.h"

namespace jgd {

// Half-open range of tiles or pixels.
struct Range {
  int begin;
  int end;
  JGD_HD bool empty() const { return end <= begin; }
};

JGD_HD inline int tile_count(int pixels) { return (pixels + kTileSize - 1) / kTileSize; }

// floor(v / step) limited to [lo, hi]; the limit comes first, so no cast can overflow.
template <typename T>
JGD_HD inline int floor_clamped(T v, int lo, int hi) {
  if (!(v > T(lo))) return lo;
  if (v >= T(hi)) return hi;
  return static_cast<int>(std::floor(v));
}

// The part of the image that a splat can touch.
template <typename T>
struct Footprint {
  Vec2<T> center;  // pixels
  Sym2<T> conic;
  T det;           // of the conic
  T bound;         // 2 * (largest sigma inside), enlarged against rounding
  Vec2<T> extent;  // half size of the bounding box, pixels
  bool rectangle;  // 3-sigma rule: all tiles of a rectangle instead of an ellipse
};

// Ellipse of the pixels with opacity * exp(-sigma) >= 1/255, i.e. sigma <= ln(255 opacity).
// Extent < 0 for what no pixel can see; infinite (every tile) for a needle so thin that rounding
// leaves nothing of the determinant.
template <typename T>
JGD_HD inline Footprint<T> ellipse_footprint(const Vec2<T>& center, const Sym2<T>& conic,
                                             T opacity) {
  constexpr T eps = std::numeric_limits<T>::epsilon();
  constexpr T infinity = std::numeric_limits<T>::infinity();
  Footprint<T> f{center, conic, det(conic), T(0), {T(-1), T(-1)}, false};
  const T sigma = std::log(opacity / T(kAlphaMin));
  if (!(sigma >= T(0)) || !(conic.xx > T(0)) || !(conic.yy > T(0))) return f;
  // The exponent is a sum of three terms; the largest is at most `terms` times their sum on the
  // ellipse. Rounding is a few eps of that, in the exponent itself and in det.
  const T terms = conic.xx * conic.yy / f.det;
  const T rounding = T(64) * eps * terms;
  if (!(f.det > T(0)) || !(rounding < T(1))) {
    f.extent = {infinity, infinity};
    return f;
  }
  f.bound = T(2) * sigma * (T(1) + rounding) + rounding + T(512) * eps;
  f.extent = {std::sqrt(f.bound * conic.yy / f.det), std::sqrt(f.bound * conic.xx / f.det)};
  return f;
}

// The seeds' rule: the tiles touched by the square of half width `radius` around the centre, in
// their pixel coordinates (pixel centres at whole numbers).
template <typename T>
JGD_HD inline Footprint<T> square_footprint(const Vec2<T>& center, int radius) {
  return {center, {}, T(0), T(0), {T(radius), T(radius)}, true};
}

// Tiles along one axis that the bounding box touches; n is the number of tiles on that axis.
template <typename T>
JGD_HD inline Range tile_range(T center, T extent, int n, bool rectangle) {
  if (!(extent >= T(0))) return {0, 0};
  const T tile = T(kTileSize);
  const T shift = rectangle ? T(0.5) : T(0);
  const T low = (center - shift - extent) / tile;
  const T high = rectangle ? (center - shift + extent + (tile - T(1))) / tile
                           : (center + extent) / tile + T(1);
  return {floor_clamped(low, 0, n), floor_clamped(high, 0, n)};
}

template <typename T>
JGD_HD inline Range tile_rows(const Footprint<T>& f, int n_tiles_y) {
  return tile_range(f.center.y, f.extent.y, n_tiles_y, f.rectangle);
}

// Tiles of tile row `row` that the ellipse touches. The band of pixel centres in the row is
// dy in [low, high]; x(dy) of the right edge is concave, so its maximum over the band is at the
// ellipse's rightmost point if that lies in the band and at the nearer end otherwise; the left
// edge is its mirror image.
template <typename T>
JGD_HD inline Range tile_columns(const Footprint<T>& f, int row, int n_tiles_x) {
  const Range box = tile_range(f.center.x, f.extent.x, n_tiles_x, f.rectangle);
  if (f.rectangle || box.empty() || !std::isfinite(f.extent.x)) return box;
  const T low = T(row * kTileSize) - f.center.y;
  const T high = low + T(kTileSize);
  if (low > f.extent.y || high < -f.extent.y) return {0, 0};
  const T a = f.conic.xx;
  const T b = f.conic.xy;
  const T y_right = -b / f.conic.yy * f.extent.x;  // dy of the rightmost point
  const auto half_chord = [&](T dy) {
    return std::sqrt(std::fmax(f.bound * a - f.det * dy * dy, T(0)));
  };
  const auto clamp = [&](T dy) { return std::fmin(std::fmax(dy, low), high); };
  const T dy_right = clamp(y_right);
  const T dy_left = clamp(-y_right);
  // One extra pixel absorbs the rounding of the chord itself.
  const T right = (-b * dy_right + half_chord(dy_right)) / a + T(1);
  const T left = (-b * dy_left - half_chord(dy_left)) / a - T(1);
  if (!std::isfinite(left) || !std::isfinite(right)) return box;  // overflow: keep the whole box
  const T tile = T(kTileSize);
  const int begin = floor_clamped((f.center.x + left) / tile, box.begin, box.end);
  const int end = floor_clamped((f.center.x + right) / tile + T(1), box.begin, box.end);
  return {begin, end};
}

}  // namespace jgd
