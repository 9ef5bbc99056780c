// Finds the 16x16 tiles that a splat can touch. Counting and listing use the same functions, so the
// two can never disagree.
//
// Invariant for the exact footprint: every pixel with alpha >= 1/255 lies in a listed tile, in
// floating point too, because the ellipse is enlarged by more than the rounding error of the
// exponent. A splat may be listed in a few tiles more than needed but never in fewer, so tiles
// cannot change an image.
#pragma once

#include <cmath>

#include "math/constants.h"
#include "math/hd.h"
#include "math/splat.h"
#include "math/vec.h"

namespace jgd {

// A half-open range of tiles or pixels, or one for each lane.
template <typename Index>
struct RangeOf {
  Index begin;
  Index end;
  JGD_HD auto empty() const { return end <= begin; }
};
using Range = RangeOf<int>;

template <typename M, typename Index>
JGD_HD inline RangeOf<Index> select(M mask, const RangeOf<Index>& a, const RangeOf<Index>& b) {
  return {select(mask, a.begin, b.begin), select(mask, a.end, b.end)};
}

JGD_HD inline int tile_count(int pixels) { return (pixels + kTileSize - 1) / kTileSize; }

// floor(v) limited to [lo, hi], lo for NaN. The limit is applied first, so no cast can overflow.
template <typename T>
JGD_HD inline Int<T> floor_clamped(T v, int lo, int hi) {
  const Mask<T> inside = v > T(lo) && v < T(hi);
  const Int<T> whole = to_int(floor(select(inside, v, T(lo))));
  return select(v >= T(hi), Int<T>(hi), whole);
}

// The part of the image that a splat can touch.
template <typename T>
struct Footprint {
  Vec2<T> center;  // pixels
  Sym2<T> conic;
  T det;  // of the conic
  T bound;  // 2 * (largest sigma inside), enlarged against rounding
  Vec2<T> extent;  // half size of the bounding box, pixels
  bool rectangle;  // 3-sigma rule: all tiles of a rectangle instead of an ellipse
};

// The ellipse of the pixels with opacity * exp(-sigma) >= 1/255, which is sigma <= ln(255 opacity).
// The extent is negative if no pixel can see the splat, and infinite (every tile) for a needle so
// thin that rounding leaves nothing of the determinant.
template <typename T>
JGD_HD inline Footprint<T> ellipse_footprint(const Vec2<T>& center, const Sym2<T>& conic,
                                             T opacity) {
  const T eps = kEpsilon<T>;
  Footprint<T> f{center, conic, det(conic), T(0), {T(-1), T(-1)}, false};
  const T sigma = log(opacity / T(kAlphaMin));
  const Mask<T> seen = sigma >= T(0) && conic.xx > T(0) && conic.yy > T(0);
  if (none_of(seen)) return f;
  // The exponent is a sum of three terms; the largest is at most `terms` times their sum on the
  // ellipse. Rounding is a few eps of that, in the exponent itself and in det.
  const T terms = conic.xx * conic.yy / f.det;
  const T rounding = T(64) * eps * terms;
  const Mask<T> regular = f.det > T(0) && rounding < T(1);
  const T infinity = kInfinity<T>;
  const T bound = T(2) * sigma * (T(1) + rounding) + rounding + T(512) * eps;
  f.bound = select(seen && regular, bound, T(0));
  const Vec2<T> extent{sqrt(bound * conic.yy / f.det), sqrt(bound * conic.xx / f.det)};
  f.extent = select(seen, select(regular, extent, Vec2<T>{infinity, infinity}), f.extent);
  return f;
}

// The original rasterizers' rule: the tiles touched by the square of half width `radius` around the
// centre, in their pixel coordinates (pixel centres at whole numbers).
template <typename T>
JGD_HD inline Footprint<T> square_footprint(const Vec2<T>& center, Int<T> radius) {
  return {center, {}, T(0), T(0), {T(radius), T(radius)}, true};
}

// How much an edge of the ellipse, in pixels, is moved outwards to absorb its own rounding. Near a
// tip the edge is the square root of a difference that cancels: sqrt(eps) of the extent.
template <typename T>
JGD_HD inline T edge_slack(T center, T extent) {
  return T(0.05) + T(1e-3) * extent + T(4) * kEpsilon<T> * abs(center);
}

// Cells of `size` pixels, out of n, that hold a pixel centre j + 1/2 within [low, high].
template <typename T>
JGD_HD inline RangeOf<Int<T>> cells_between(T low, T high, int size, int n) {
  return {floor_clamped((low + T(0.5)) / T(size), 0, n),
          floor_clamped((high - T(0.5)) / T(size) + T(1), 0, n)};
}

// Cells along one axis with a pixel centre in the bounding box of the ellipse.
template <typename T>
JGD_HD inline RangeOf<Int<T>> cells_in_box(T center, T extent, int size, int n) {
  const Mask<T> seen = extent >= T(0);
  if (none_of(seen)) return {0, 0};
  const T reach = extent + edge_slack(center, extent);
  return select(seen, cells_between(center - reach, center + reach, size, n),
                RangeOf<Int<T>>{0, 0});
}

// The tiles [floor((p - r) / 16), floor((p + r + 15) / 16)) of the square; p counts from the centre
// of the first pixel.
template <typename T>
JGD_HD inline RangeOf<Int<T>> tiles_of_square(T center, T radius, int n) {
  const T p = center - T(0.5);
  const T tile = T(kTileSize);
  return {floor_clamped((p - radius) / tile, 0, n),
          floor_clamped((p + radius + T(kTileSize - 1)) / tile, 0, n)};
}

template <typename T>
JGD_HD inline RangeOf<Int<T>> tile_rows(const Footprint<T>& f, int n_tiles_y) {
  return f.rectangle ? tiles_of_square(f.center.y, f.extent.y, n_tiles_y)
                     : cells_in_box(f.center.y, f.extent.y, kTileSize, n_tiles_y);
}

// The tiles of tile row `row` that the footprint touches. The pixel centres of the row form the
// band dy in [low, high]. x(dy) of the right edge of an ellipse is concave, so its maximum over the
// band is at the rightmost point of the ellipse if that lies in the band, and at the nearer end
// otherwise. The left edge is the mirror image of the right one.
template <typename T>
JGD_HD inline RangeOf<Int<T>> tile_columns(const Footprint<T>& f, Int<T> row, int n_tiles_x) {
  if (f.rectangle) return tiles_of_square(f.center.x, f.extent.x, n_tiles_x);
  const RangeOf<Int<T>> box = cells_in_box(f.center.x, f.extent.x, kTileSize, n_tiles_x);
  const Mask<T> bounded = !box.empty() && is_finite(f.extent.x);
  if (none_of(bounded)) return box;
  const T low = (T(row * Int<T>(kTileSize)) + T(0.5)) - f.center.y;
  const T high = (T(row * Int<T>(kTileSize) + Int<T>(kTileSize)) - T(0.5)) - f.center.y;
  const T reach = f.extent.y + edge_slack(f.center.y, f.extent.y);
  const Mask<T> missed = low > reach || high < -reach;
  const RangeOf<Int<T>> otherwise = select(bounded && missed, RangeOf<Int<T>>{0, 0}, box);
  if (none_of(bounded && !missed)) return otherwise;
  const T a = f.conic.xx;
  const T b = f.conic.xy;
  const T y_right = -b / f.conic.yy * f.extent.x;  // dy of the rightmost point
  const auto half_chord = [&](T dy) { return sqrt(fmax(f.bound * a - f.det * dy * dy, T(0))); };
  const auto clamp = [&](T dy) { return fmin(fmax(dy, low), high); };
  const T dy_right = clamp(y_right);
  const T dy_left = clamp(-y_right);
  const T slack = edge_slack(f.center.x, f.extent.x);
  const T right = (-b * dy_right + half_chord(dy_right)) / a + slack;
  const T left = (-b * dy_left - half_chord(dy_left)) / a - slack;
  // Overflow: keep the whole box.
  const Mask<T> exact = bounded && !missed && is_finite(left) && is_finite(right);
  const RangeOf<Int<T>> columns =
      cells_between(f.center.x + left, f.center.x + right, kTileSize, n_tiles_x);
  return select(exact, columns, otherwise);
}

}  // namespace jgd
