// Gives bin and blend the splats of one image, which is one camera of one batch element.
#pragma once

#include <cstdint>

#include "math/hd.h"
#include "math/tile.h"
#include "stages/bin.h"
#include "stages/load.h"

namespace jgd {

// Whether a splat is visible and finite: the one test that decides which splats are sorted,
// counted, listed and drawn.
template <typename T>
JGD_HD inline Mask<T> drawable(const Vec2<T>& mean2d, T depth, const Sym2<T>& conic, T opacity,
                               Int<T> radius) {
  return radius > Int<T>(0) && opacity > T(0) && is_finite(mean2d) && is_finite(conic) &&
         is_finite(depth) && is_finite(opacity);
}

template <typename T>
struct ImageSplats {
  const T* means2d;
  const T* depths;
  const T* conics;
  const T* opacities;
  const int32_t* radii;
  bool three_sigma;

  JGD_HD ImageSplats(const SplatInputs<T>& in, int64_t batch_index, int64_t camera)
      : means2d(in.means2d.at(in.batch, batch_index) + 2 * camera * in.n),
        depths(in.depths.at(in.batch, batch_index) + camera * in.n),
        conics(in.conics.at(in.batch, batch_index) + 3 * camera * in.n),
        opacities(in.opacities.at(in.batch, batch_index) + camera * in.n),
        radii(in.radii.at(in.batch, batch_index) + camera * in.n),
        three_sigma(in.three_sigma) {}

  JGD_HD bool drawable(int64_t id) const {
    if (radii[id] <= 0 || !(opacities[id] > T(0))) return false;
    return jgd::drawable(load_vec2(means2d, id), depths[id], load_sym2(conics, id), opacities[id],
                         radii[id]);
  }

  JGD_HD Footprint<T> footprint(int64_t id) const {
    const Vec2<T> center = load_vec2(means2d, id);
    if (three_sigma) return square_footprint(center, radii[id]);
    return ellipse_footprint(center, load_sym2(conics, id), opacities[id]);
  }
};

}  // namespace jgd
