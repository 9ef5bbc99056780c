// Blends one splat into one pixel, and back.
//
// These are scalars: the CUDA kernels use them as they are, the CPU kernels have the same formulas
// on vectors (cpu/kernels/blend_forward.cc). Multiply-add is written out, never left to the
// compiler: forward and backward must see the very same exponent, or they draw different splats.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "math/constants.h"
#include "math/hd.h"
#include "math/vec.h"

namespace jgd {

// Unsigned key with the order of the floating-point number (IEEE 754 total order for non-NaN).
template <typename T>
JGD_HD inline auto depth_key(T value) {
  using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Key kSign = Key{1} << (8 * sizeof(T) - 1);
  value += T(0);  // -0 becomes +0: equal depths must have equal keys
  Key bits;
  memcpy(&bits, &value, sizeof(T));
  return (bits & kSign) ? static_cast<Key>(~bits) : static_cast<Key>(bits | kSign);
}

// log2(opacity exp(-sigma)) = log2_opacity + xx dx^2 + xy dx dy + yy dy^2. The factors of sigma and
// the opacity are folded together, so that the cutoff is tested before an exponential is spent.
template <typename T>
struct Exponent {
  T xx, xy, yy, log2_opacity;
};

template <typename T>
JGD_HD inline Exponent<T> make_exponent(const Sym2<T>& conic, T opacity) {
  const T log2_e = T(1.4426950408889634074);
  return {T(-0.5) * log2_e * conic.xx, -log2_e * conic.xy, T(-0.5) * log2_e * conic.yy,
          log2(opacity)};
}

// (dx, dy) = pixel - centre.
template <typename T>
JGD_HD inline T log2_alpha(const Exponent<T>& e, T dx, T dy) {
  const T along_x = std::fma(e.xx, dx, e.xy * dy);
  return std::fma(dx, along_x, std::fma(e.yy * dy, dy, e.log2_opacity));
}

// alpha >= 1/255 and sigma >= 0. False for NaN.
template <typename T>
JGD_HD inline bool seen(const Exponent<T>& e, T log2_alpha) {
  return log2_alpha >= T(kLog2AlphaMin) && log2_alpha <= e.log2_opacity;
}

// Whether a pixel in the box from `low` to `high`, both included, may pass seen(). Never false if
// one does.
//
// The exponent is concave, so its maximum over a box without the centre is on an edge that faces
// the centre. Rounding is a few eps of the largest terms anywhere in the box; where the terms
// nearly cancel, or the conic is no ellipse, the answer is yes.
template <typename T>
JGD_HD inline bool may_be_seen(const Exponent<T>& e, const Vec2<T>& center, const Vec2<T>& low,
                               const Vec2<T>& high) {
  const T eps = kEpsilon<T>;
  const T product = T(4) * e.xx * e.yy;
  if (!(e.xy * e.xy < product * (T(1) - T(64) * eps)) || !(e.xx < T(0))) return true;
  const T left = low.x - center.x, right = high.x - center.x;
  const T top = low.y - center.y, bottom = high.y - center.y;
  const auto clamp = [](T v, T lower, T upper) { return std::fmin(std::fmax(v, lower), upper); };
  const T near_x = clamp(T(0), left, right);
  const T near_y = clamp(T(0), top, bottom);
  if (near_x == T(0) && near_y == T(0)) return true;
  T highest = -kInfinity<T>;
  if (near_x != T(0)) {
    const T dy = clamp(e.xy * near_x * (T(-0.5) / e.yy), top, bottom);
    highest = log2_alpha(e, near_x, dy);
  }
  if (near_y != T(0)) {
    const T dx = clamp(e.xy * near_y * (T(-0.5) / e.xx), left, right);
    highest = std::fmax(highest, log2_alpha(e, dx, near_y));
  }
  const T far_x = std::fmax(std::fabs(left), std::fabs(right));
  const T far_y = std::fmax(std::fabs(top), std::fabs(bottom));
  const T terms = std::fabs(e.xx) * far_x * far_x + std::fabs(e.xy) * far_x * far_y +
                  std::fabs(e.yy) * far_y * far_y + std::fabs(e.log2_opacity);
  return !(highest < T(kLog2AlphaMin) - T(16) * eps * terms);
}

// One step: a splat takes its part of the light that is left in a pixel.
template <typename T>
struct BlendStep {
  T w;              // weight of the splat, alpha T
  T transmittance;  // T behind it
  bool ends;        // the pixel ends in front of it: nothing is drawn
};

template <typename T>
JGD_HD inline BlendStep<T> blend_step(T alpha, T transmittance) {
  const T after = transmittance * (T(1) - alpha);
  const bool ends = after < T(kTransmittanceMin);
  return {ends ? T(0) : alpha * transmittance, ends ? transmittance : after, ends};
}

// Whether the splat of a step is the median of the pixel: the first to leave at most half of the
// light. A step that takes no light never is.
template <typename T>
JGD_HD inline bool is_median(T before, T after) {
  return before > T(kTransmittanceMedian) && !(after > T(kTransmittanceMedian));
}

template <typename T>
struct BlendStepGrad {
  T w;
  T transmittance;  // T in front of the splat
  T behind;         // for the splat in front of it
  T v_alpha;
};

// The same step from back to front. With u_i = dL/dw_i at fixed transmittance (colour, depth and
// weight together) and behind_i = sum_{j > i} w_j u_j + T_end dL/dT_end, the contribution of the
// light that passes i:
//   dL/dalpha_i = T_i u_i - behind_i / (1 - alpha_i),  T_i = T_{i+1} / (1 - alpha_i).
// `inverse` is 1 / (1 - alpha), which each device computes in its own way; `transmittance` is
// T_{i+1} and `behind` is behind_i.
template <typename T>
JGD_HD inline BlendStepGrad<T> blend_step_vjp(T alpha, T inverse, T u, T transmittance, T behind) {
  const T before = transmittance * inverse;
  const T w = alpha * before;
  return {w, before, std::fma(w, u, behind), std::fma(before, u, -(behind * inverse))};
}

// Sums over pixels from which the gradient of a splat follows, with s = dL/dsigma, (dx, dy) = pixel
// - centre and w = alpha T. All are taken about the centre of the splat, so the sums of several
// tiles can be added.
enum Moment : int {
  kMoment0,      // s
  kMomentX,      // s dx
  kMomentY,      // s dy
  kMomentXX,     // s dx^2
  kMomentXY,     // s dx dy
  kMomentYY,     // s dy^2
  kMomentDepth,  // w dL/d(sum w z)
  kMomentAbsX,   // |s d(exponent)/dx|, only with absgrad
  kMomentAbsY,
  kMoments,      // followed by w dL/dcolour for each channel
};

template <typename T>
struct SplatGradient {
  Vec2<T> mean2d, mean2d_abs;
  T depth;
  Sym2<T> conic;
  T opacity;
};

// With sigma = (a dx^2 + c dy^2) / 2 + b dx dy and alpha = o exp(-sigma):
//   dL/dx = -sum s (a dx + b dy), dL/da = sum s dx^2 / 2, dL/db = sum s dx dy, dL/do = -sum s / o.
template <typename T>
JGD_HD inline SplatGradient<T> splat_gradient(const Sym2<T>& conic, T opacity, const T* m) {
  const T ln2 = T(0.69314718055994530942);  // the absolute moments are in units of log2(alpha)
  // 0 - x instead of -x: a splat that was not drawn has the gradient 0, not -0.
  return {{T(0) - (conic.xx * m[kMomentX] + conic.xy * m[kMomentY]),
           T(0) - (conic.xy * m[kMomentX] + conic.yy * m[kMomentY])},
          {ln2 * m[kMomentAbsX], ln2 * m[kMomentAbsY]},
          m[kMomentDepth],
          {T(0.5) * m[kMomentXX], m[kMomentXY], T(0.5) * m[kMomentYY]},
          (T(0) - m[kMoment0]) / opacity};
}

}  // namespace jgd
