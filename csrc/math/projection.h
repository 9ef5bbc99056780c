// Projects one Gaussian to one splat, with every culling rule; the body of the project stage.
//
// Invariant: a splat that project_gaussian returns with radius > 0 is finite and, unless settings
// keep those outside, may touch a pixel.
// Any other Gaussian, whatever is wrong with it, gives zeros and gets no gradient.
#pragma once

#include "math/camera.h"
#include "math/constants.h"
#include "math/hd.h"
#include "math/quat.h"
#include "math/splat.h"
#include "math/tile.h"
#include "math/vec.h"

namespace jgd {

template <typename T>
struct ProjectionSettings {
  T near_plane, far_plane;  // drawn where near_plane < depth < far_plane
  T eps2d;  // added to the diagonal of the 2D covariance, px^2
  int width, height;  // image, pixels
  bool antialiased;  // opacity is compensated for eps2d
  bool three_sigma;  // the original rasterizers' footprint and culling instead of the exact ones
  bool keep_outside = false;  // a footprint without a pixel of the image does not cull
};

// A splat. Where the radius is 0 the Gaussian is culled and every other field is 0 too.
template <typename T>
struct Projected {
  Vec2<T> mean2d;  // pixels; the centre of the top left pixel is (0.5, 0.5)
  T depth;  // z in the camera frame
  Sym2<T> conic;  // inverse of the 2D covariance, px^-2
  T opacity;  // after compensation
  Int<T> radius;  // pixels
};

// Cotangents of the differentiable fields of Projected.
template <typename T>
struct ProjectedGrad {
  Vec2<T> mean2d;
  T depth;
  Sym2<T> conic;
  T opacity;
};

// Whether rotation and scales define a Gaussian: all finite, the quaternion not zero, the scales
// positive.
template <typename T>
JGD_HD inline Mask<T> valid_quat_scale(const Quat<T>& q, const Vec3<T>& s) {
  return is_finite(q) && max_abs(q) > T(0) && is_finite(s) && s.x > T(0) && s.y > T(0) &&
         s.z > T(0);
}

// Whether [mean - extent, mean + extent], pixels, meets [0, size].
template <typename T>
JGD_HD inline Mask<T> touches_image(T mean, T extent, int size) {
  return mean + extent >= T(0) && mean - extent <= T(size);
}

// Below the cutoff no pixel shows a Gaussian. The original rasterizers give a radius to any opacity
// that is not negative; their pixels test alpha all the same.
template <typename T>
JGD_HD inline Mask<T> opacity_visible(T opacity, const ProjectionSettings<T>& settings) {
  const bool any = settings.three_sigma || settings.keep_outside;
  return any ? opacity >= T(0) : opacity > T(kAlphaMin);
}

// Whether the footprint meets the image; cov2d and opacity are those of the splat.
template <typename T>
JGD_HD inline Mask<T> footprint_visible(const Vec2<T>& mean2d, const Sym2<T>& cov2d, T opacity,
                                        Int<T> radius, const ProjectionSettings<T>& settings) {
  if (settings.three_sigma) {
    const Footprint<T> f = square_footprint(mean2d, radius);
    return !tile_rows(f, tile_count(settings.height)).empty() &&
           !tile_columns(f, Int<T>(0), tile_count(settings.width)).empty();
  }
  // The ellipse sigma <= ln(o / kAlphaMin) has the half-extents sqrt(2 ln(o / kAlphaMin) cov_ii).
  // The centres of the outermost pixels lie half a pixel within the image, which leaves room for
  // the rounding of the extents and for a logarithm with an error of a few eps.
  const T reach = T(2) * max(log(opacity / T(kAlphaMin)), T(0));
  return touches_image(mean2d.x, sqrt(reach * cov2d.xx), settings.width) &&
         touches_image(mean2d.y, sqrt(reach * cov2d.yy), settings.height);
}

template <typename T>
JGD_HD inline Sym2<T> widen(const Sym2<T>& cov2d, T eps2d) {
  return {cov2d.xx + eps2d, cov2d.xy, cov2d.yy + eps2d};
}

// mean2d = project_point(m), depth = m_z, conic = (J R cov3d R^T J^T + eps2d I)^-1, opacity times
// the compensation, with m = R mean + t.
template <typename T>
JGD_HD inline Projected<T> project_gaussian(const Vec3<T>& mean, const Sym3<T>& cov3d, T opacity,
                                            const Pose<T>& pose, const Pinhole<T>& K,
                                            const ProjectionSettings<T>& settings) {
  const Projected<T> culled{};
  // All comparisons are written so that NaN culls.
  Mask<T> drawn = is_finite(mean) && is_finite(cov3d) && is_finite(opacity) &&
                  opacity_visible(opacity, settings);
  if (none_of(drawn)) return culled;

  const Vec3<T> m = world_to_camera(pose, mean);
  drawn = drawn && is_finite(m) && m.z > settings.near_plane && m.z < settings.far_plane;
  if (none_of(drawn)) return culled;

  // A camera that is not finite leaves m, mean2d or cov2d not finite.
  const Vec2<T> mean2d = project_point(K, m);
  const Jacobian<T> J = pinhole_jacobian(K, m, settings.width, settings.height);
  const Sym2<T> before = project_covariance(J, pose.R, cov3d);
  const Sym2<T> cov2d = widen(before, settings.eps2d);
  const T d = det(cov2d);
  // With det > 0 both eigenvalues have the sign of xx; a negative definite matrix is degenerate.
  drawn =
      drawn && is_finite(mean2d) && is_finite(cov2d) && is_finite(d) && d > T(0) && cov2d.xx > T(0);
  const Sym2<T> conic = inverse(cov2d);
  drawn = drawn && is_finite(conic);

  const T effective = settings.antialiased ? opacity * compensation(before, cov2d) : opacity;
  drawn = drawn && opacity_visible(effective, settings);
  if (none_of(drawn)) return culled;

  const T floor = settings.three_sigma ? T(kThreeSigmaDiscriminantFloor) : T(0);
  const Int<T> r = radius(cov2d, floor);
  drawn = drawn && r > Int<T>(0);
  if (!settings.keep_outside) {
    drawn = drawn && footprint_visible(mean2d, cov2d, effective, r, settings);
  }
  if (none_of(drawn)) return culled;
  return {select(drawn, mean2d, culled.mean2d), select(drawn, m.z, T(0)),
          select(drawn, conic, culled.conic), select(drawn, effective, T(0)),
          select(drawn, r, Int<T>(0))};
}

// The steps above in reverse, only for radius > 0. Writes all outputs.
template <typename T>
JGD_HD inline void project_gaussian_vjp(const Vec3<T>& mean, const Sym3<T>& cov3d, T opacity,
                                        const Pose<T>& pose, const Pinhole<T>& K,
                                        const ProjectionSettings<T>& settings,
                                        const ProjectedGrad<T>& v, Vec3<T>& v_mean,
                                        Sym3<T>& v_cov3d, T& v_opacity, Pose<T>& v_pose,
                                        Pinhole<T>& v_K) {
  const Vec3<T> m = world_to_camera(pose, mean);
  const Jacobian<T> J = pinhole_jacobian(K, m, settings.width, settings.height);
  const Sym2<T> before = project_covariance(J, pose.R, cov3d);
  const Sym2<T> cov2d = widen(before, settings.eps2d);

  Sym2<T> v_before = inverse_vjp(inverse(cov2d), v.conic);
  v_opacity = v.opacity;
  if (settings.antialiased) {
    Sym2<T> v_narrow, v_wide;
    compensation_vjp(before, cov2d, v.opacity * opacity, v_narrow, v_wide);
    v_opacity = v.opacity * compensation(before, cov2d);
    v_before = v_before + (v_narrow + v_wide);
  }

  Jacobian<T> v_J;
  Mat3<T> v_R;
  project_covariance_vjp(J, pose.R, cov3d, v_before, v_J, v_R, v_cov3d);
  Vec3<T> v_m, v_m_point;
  Pinhole<T> v_K_point;
  pinhole_jacobian_vjp(K, m, settings.width, settings.height, v_J, v_m, v_K);
  project_point_vjp(K, m, v.mean2d, v_m_point, v_K_point);
  v_m += v_m_point;
  v_m.z += v.depth;
  v_K = {v_K.fx + v_K_point.fx, v_K.fy + v_K_point.fy, v_K.cx + v_K_point.cx,
         v_K.cy + v_K_point.cy};
  world_to_camera_vjp(pose, mean, v_m, v_mean, v_pose);
  v_pose.R += v_R;
}

}  // namespace jgd
