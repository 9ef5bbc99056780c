// Counts the (pixel, splat) pairs that an image really draws: alpha at least 1/255, in a pixel that
// has not ended.
//
// It also counts the pairs in all vectors of pixels, aligned like those of the kernels, that hold a
// drawn pair: a program that works on whole vectors cannot do less. It blends splat after splat
// over the whole image, without tiles, and shares nothing with the stages but the definition of the
// exponent.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/simd/vector.h"
#include "math/blend.h"
#include "math/constants.h"

// counts[0]: drawn pairs, counts[1]: pairs in vectors with a drawn one.
extern "C" void drawn_pairs(const float* means2d, const float* conics, const float* opacities,
                            const int32_t* radii, const int32_t* order, int64_t n, int width,
                            int height, int64_t* counts) {
  using namespace jgd::cpu::JGD_ISA;
  using V = Simd<float>::V;
  using I = Simd<float>::I;
  constexpr int kLanes = Simd<float>::kLanes;
  const int pitch = (width + kLanes - 1) / kLanes;
  V offset;
  for (int i = 0; i < kLanes; ++i) offset[i] = float(i) + 0.5f;
  // A pixel that has ended has a transmittance of zero, and so have the pixels that fill the last
  // vector of a row: no splat leaves enough of it to be drawn.
  std::vector<float> transmittance(int64_t{pitch} * kLanes * height, 0.0f);
  for (int row = 0; row < height; ++row) {
    std::fill_n(transmittance.data() + int64_t{row} * pitch * kLanes, width, 1.0f);
  }
  counts[0] = counts[1] = 0;
  for (int64_t rank = 0; rank < n; ++rank) {
    const int64_t id = order[rank];
    if (radii[id] <= 0) continue;
    const jgd::Sym2<float> conic{conics[3 * id], conics[3 * id + 1], conics[3 * id + 2]};
    const auto e = jgd::make_exponent(conic, opacities[id]);
    const float x = means2d[2 * id], y = means2d[2 * id + 1];
    // Half the box of the ellipse alpha = 1/255, and a pixel for rounding.
    const float squared = 2.0f * std::log(std::max(1.0f, opacities[id] / float(jgd::kAlphaMin)));
    const float determinant = conic.xx * conic.yy - conic.xy * conic.xy;
    const float half_x = std::sqrt(squared * conic.yy / determinant) + 1.0f;
    const float half_y = std::sqrt(squared * conic.xx / determinant) + 1.0f;
    const auto clip = [](float v, int size) {
      return int(std::min(std::max(v, 0.0f), float(size)));
    };
    const int column_begin = clip(x - half_x, width) / kLanes;
    const int column_end = (clip(x + half_x, width) + kLanes - 1) / kLanes;
    const int row_end = clip(y + half_y + 1.0f, height);
    for (int row = clip(y - half_y, height); row < row_end; ++row) {
      const float dy = float(row) + 0.5f - y;
      I drawn_in_row{};
      for (int column = column_begin; column < column_end; ++column) {
        const V dx = offset + float(column * kLanes) - x;
        const V exponent = fma(dx, e.xx * dx + e.xy * dy, splat(e.log2_opacity + e.yy * dy * dy));
        const auto seen = less_equal(splat(float(jgd::kLog2AlphaMin)), exponent) &
                          less_equal(exponent, splat(e.log2_opacity));
        if (!any(seen)) continue;
        V t;
        float* const pixels = &transmittance[(int64_t{row} * pitch + column) * kLanes];
        std::memcpy(&t, pixels, sizeof(t));
        const V cap = splat(float(jgd::kAlphaMax));
        const V uncapped = exp2(exponent);
        const V after = t * (1.0f - select(less_equal(uncapped, cap), uncapped, cap));
        const auto drawn = seen & less_equal(splat(float(jgd::kTransmittanceMin)), after);
        drawn_in_row = select(drawn, drawn_in_row + 1, drawn_in_row);
        if (any(drawn)) counts[1] += kLanes;
        t = select(drawn, after, select(seen, V{}, t));
        std::memcpy(pixels, &t, sizeof(t));
      }
      for (int i = 0; i < kLanes; ++i) counts[0] += drawn_in_row[i];
    }
  }
}
