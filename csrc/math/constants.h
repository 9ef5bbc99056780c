// Defines every threshold and factor that decides an image, for all stages and all backends.
//
// They are doubles, converted at the point of use, T(kAlphaMin), so that float code stays float.
#pragma once

#include <limits>

#include "math/number.h"

namespace jgd {

// These are values because device code may not call the functions.
template <typename T>
inline constexpr Scalar<T> kEpsilon = std::numeric_limits<Scalar<T>>::epsilon();
template <typename T>
inline constexpr Scalar<T> kInfinity = std::numeric_limits<Scalar<T>>::infinity();
template <typename T>
inline constexpr Scalar<T> kNaN = std::numeric_limits<Scalar<T>>::quiet_NaN();

// Blending skips a contribution below one 8-bit grey level, caps alpha so that the backward pass
// may divide by 1 - alpha, and ends a pixel before its transmittance would fall below the last
// value.
inline constexpr double kAlphaMin = 1.0 / 255.0;
inline constexpr double kLog2AlphaMin = -7.99435343685885793770;  // log2 of it
inline constexpr double kAlphaMax = 0.99;
inline constexpr double kTransmittanceMin = 1e-4;

// The transmittance at the median depth of a pixel: half of the light is taken in front of it.
inline constexpr double kTransmittanceMedian = 0.5;

// Side of a square tile, pixels.
inline constexpr int kTileSize = 16;

// Smallest opacity factor of the antialiasing compensation.
inline constexpr double kCompensationMin = 0.005;

// The EWA Jacobian is taken at most this fraction of half the image size outside the image.
inline constexpr double kFrustumMargin = 0.3;

// The radius of a splat in standard deviations, and the floor of the eigenvalue discriminant (px^4)
// by the original rasterizers' rule.
inline constexpr double kRadiusSigmas = 3.0;
inline constexpr double kThreeSigmaDiscriminantFloor = 0.1;

// Real spherical harmonics. With P_l^m = d^m P_l / dz^m, and c_m + i s_m = (x + i y)^m,
//   Y_l^m = (-1)^m N_lm P_l^m(z) c_m,  Y_l^-m = (-1)^m N_lm P_l^m(z) s_m,
//   N_lm = sqrt((2 - [m = 0]) (2l + 1) / (4 pi) (l - m)! / (l + m)!).
// kShLM is N_lm times the number that makes the coefficients of P_l^m the integers used in sh.h.
inline constexpr double kSh00 = 0.28209479177387814;  // 1/2 sqrt(1 / pi)
inline constexpr double kSh1 = 0.48860251190291992;   // sqrt(3 / (4 pi)), m = 0 and m = 1
inline constexpr double kSh20 = 0.31539156525252001;  // 1/4 sqrt(5 / pi)
inline constexpr double kSh21 = 1.0925484305920791;   // 1/2 sqrt(15 / pi)
inline constexpr double kSh22 = 0.54627421529603953;  // 1/4 sqrt(15 / pi)
inline constexpr double kSh30 = 0.37317633259011540;  // 1/4 sqrt(7 / pi)
inline constexpr double kSh31 = 0.45704579946446574;  // 1/4 sqrt(21 / (2 pi))
inline constexpr double kSh32 = 1.4453057213202770;   // 1/4 sqrt(105 / pi)
inline constexpr double kSh33 = 0.59004358992664351;  // 1/4 sqrt(35 / (2 pi))
inline constexpr double kSh40 = 0.10578554691520430;  // 3/16 sqrt(1 / pi)
inline constexpr double kSh41 = 0.66904654355728917;  // 3/4 sqrt(5 / (2 pi))
inline constexpr double kSh42 = 0.47308734787878001;  // 3/8 sqrt(5 / pi)
inline constexpr double kSh43 = 1.7701307697799305;   // 3/4 sqrt(35 / (2 pi))
inline constexpr double kSh44 = 0.62583573544917613;  // 3/16 sqrt(35 / pi)

}  // namespace jgd
