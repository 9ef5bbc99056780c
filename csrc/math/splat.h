// Derives conic, antialiasing compensation and radius of a splat from its 2D covariance; last step
// of projection.
#pragma once

#include "math/constants.h"
#include "math/hd.h"
#include "math/vec.h"

namespace jgd {

// xx yy - xy^2 with one rounding error of the result instead of cancellation (Kahan's difference of
// products): the sign decides culling and must not depend on how a compiler contracts a b - c d.
template <typename T>
JGD_HD inline T det(const Sym2<T>& a) {
  const T square = a.xy * a.xy;
  const T square_error = fma(-a.xy, a.xy, square);
  return fma(a.xx, a.yy, -square) + square_error;
}

// The conic: inverse of the 2D covariance.
template <typename T>
JGD_HD inline Sym2<T> inverse(const Sym2<T>& cov) {
  const T d = det(cov);
  return {cov.yy / d, -cov.xy / d, cov.xx / d};
}

// From C = adj(cov) / det: v_cov = adj(G) / det - <G, C> C, off-diagonal entries doubled, with
// 1 / det = det C. The form -C G C would cancel the long side of a needle against its thin side.
template <typename T>
JGD_HD inline Sym2<T> inverse_vjp(const Sym2<T>& conic, const Sym2<T>& v_conic) {
  const T d = det(conic);
  const T product = v_conic.xx * conic.xx + v_conic.xy * conic.xy + v_conic.yy * conic.yy;
  return {v_conic.yy * d - product * conic.xx, -v_conic.xy * d - T(2) * product * conic.xy,
          v_conic.xx * d - product * conic.yy};
}

// Opacity factor sqrt(max(det before / det after, kCompensationMin^2)) that keeps the integral of a
// splat when eps2d widens it from `before` to `after`.
template <typename T>
JGD_HD inline T compensation(const Sym2<T>& before, const Sym2<T>& after) {
  const T floor = T(kCompensationMin) * T(kCompensationMin);
  return sqrt(max(det(before) / det(after), floor));
}

// dc = c / 2 (d det before / det before - d det after / det after) with
// d det = yy dxx + xx dyy - 2 xy dxy; zero where the floor is active. Writes v_before and v_after.
template <typename T>
JGD_HD inline void compensation_vjp(const Sym2<T>& before, const Sym2<T>& after, T v_compensation,
                                    Sym2<T>& v_before, Sym2<T>& v_after) {
  const Sym2<T> zero{T(0), T(0), T(0)};
  v_before = v_after = zero;
  const T det_before = det(before), det_after = det(after);
  const T ratio = det_before / det_after;
  const Mask<T> free = ratio > T(kCompensationMin) * T(kCompensationMin);
  if (none_of(free)) return;
  const T half = T(0.5) * sqrt(ratio) * v_compensation;
  const T v_det_before = half / det_before;
  const T v_det_after = -half / det_after;
  v_before = select(
      free,
      Sym2<T>{v_det_before * before.yy, T(-2) * v_det_before * before.xy, v_det_before * before.xx},
      zero);
  v_after = select(
      free, Sym2<T>{v_det_after * after.yy, T(-2) * v_det_after * after.xy, v_det_after * after.xx},
      zero);
}

// ceil(3 sqrt(lambda_max)), pixels, with
// lambda_max = mid + sqrt(max(discriminant_floor, mid^2 - det)). The floor is 0, or
// kThreeSigmaDiscriminantFloor by the original rasterizers' rule. Not differentiable. NaN and
// values that no int holds give the largest int.
template <typename T>
JGD_HD inline Int<T> radius(const Sym2<T>& cov2d, T discriminant_floor) {
  constexpr int kLargest = 2147483647;
  const T mid = T(0.5) * cov2d.xx + T(0.5) * cov2d.yy;
  // mid^2 - det as a sum of squares: no cancellation for a round splat.
  const T half = T(0.5) * cov2d.xx - T(0.5) * cov2d.yy;
  const T discriminant = half * half + cov2d.xy * cov2d.xy;
  const T lambda_max = mid + sqrt(max(discriminant, discriminant_floor));
  const T r = ceil(T(kRadiusSigmas) * sqrt(lambda_max));
  const Mask<T> fits = r < T(kLargest);
  return select(fits, to_int(select(fits, r, T(0))), Int<T>(kLargest));
}

}  // namespace jgd
