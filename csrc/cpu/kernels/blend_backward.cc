// Pulls the cotangents of one tile's pixels back to the moments of the splats in its list.
//
// The list is walked from back to front. The moments of a splat stay in registers while the rows of
// the tile pass.

#include <algorithm>

#include "cpu/kernels/blend.h"
#include "cpu/kernels/tile_pixels.h"
#include "cpu/kernels/tile_rows.h"
#include "cpu/simd/interleave.h"
#include "cpu/simd/vector.h"
#include "math/constants.h"

namespace jgd::cpu::JGD_ISA {
namespace {

// kChannels < 0: any number, known at run time; 0: the image has no cotangent, so colours take no
// part. kGeometry: depth or weight has a cotangent.
template <typename T, int kChannels, bool kGeometry>
class BackwardTile {
  using V = typename Lanes<T>::V;
  using I = typename Lanes<T>::I;
  using M = typename Lanes<T>::M;
  static constexpr int kLanes = Lanes<T>::kLanes;
  static constexpr int kColumns = Lanes<T>::kColumns;

 public:
  explicit BackwardTile(const TileBackward<T>& args)
      : args_(args),
        tile_(args.tile),
        slot_size_(kMoments + args.tile.n_channels),
        centers_(args.tile),
        v_channels_(reinterpret_cast<V*>(args.tile.scratch)),
        v_color_(v_channels_ + n_channels() * kColumns * kTileSize) {
    std::fill(tile_.scratch, tile_.scratch + n_channels() * kTileSize * kTileSize, T(0));
    for (int64_t d = 0; d < n_channels(); ++d) v_color_[d] = V{};
    for_each_vector(tile_, [&](int64_t pixel, int row, int column, int n_lanes) {
      read(pixel, row, column, n_lanes);
    });
    for (int64_t d = 0; args_.v_background && d < n_channels(); ++d) {
      args_.v_background[d] = sum<T>(v_color_[d]);
    }
  }

  void run() {
    for (int64_t k = tile_.n - 1; k >= 0; --k) {
      if (k == tile_.n - 1 || k % kAhead == kAhead - 1) find_rows_ahead(k);
      T* moments = args_.moments + int64_t{args_.slots[k]} * slot_size_;
      uint32_t any_row = 0;
      for (const uint32_t rows : rows_[k % kAhead]) any_row |= rows;
      if (any_row != 0) {
        walk_back(k, moments);
      } else {
        std::fill(moments, moments + slot_size_, T(0));
      }
    }
  }

 private:
  // The rows that a splat reaches are found for several splats ahead of their use: the loop over
  // the rows ends at a branch that is hard to predict.
  static constexpr int kAhead = 16;

  int64_t n_channels() const { return kChannels < 0 ? tile_.n_channels : kChannels; }

  void read(int64_t pixel, int row, int column, int n_lanes) {
    end_[column][row] = load_ints<T>(args_.last + pixel, n_lanes);
    int32_t end_of_vector = 0;
    for (int lane = 0; lane < n_lanes; ++lane) {
      end_of_vector = std::max(end_of_vector, args_.last[pixel + lane]);
    }
    end_of_rows_[column][row / kLanes][row % kLanes] = end_of_vector;
    end_of_tile_ = std::max(end_of_tile_, end_of_vector);
    const V t = transmittance_[column][row] = load_pixels(args_.transmittance + pixel, n_lanes);
    if constexpr (kGeometry) {
      if (args_.v_weight) v_weight_[column][row] = load_pixels(args_.v_weight + pixel, n_lanes);
      if (args_.v_depth) {
        const V w = load_pixels(args_.weight + pixel, n_lanes);
        const V v = load_pixels(args_.v_depth + pixel, n_lanes) / w;
        v_weighted_depth_[column][row] = select(less_equal(w, V{}), V{}, v);
        v_weight_[column][row] -=
            v_weighted_depth_[column][row] * load_pixels(args_.depth + pixel, n_lanes);
      }
    }
    V* v_pixel = v_channels_ + (column * kTileSize + row) * n_channels();
    if (n_channels() > 0) {
      load_channels<kChannels>(args_.v_image + pixel * n_channels(), n_lanes, n_channels(),
                               v_pixel);
    }
    V v_end{};
    for (int64_t d = 0; d < n_channels(); ++d) {
      v_end = fma(v_pixel[d], splat(tile_.background[d]), v_end);
      v_color_[d] = fma(t, v_pixel[d], v_color_[d]);  // of the background
    }
    behind_[column][row] = t * v_end;
  }

  // Finds the rows of the splats from place `last` down to a multiple of kAhead.
  void find_rows_ahead(int64_t last) {
    for (int64_t k = last; k >= last / kAhead * kAhead; --k) {
      uint32_t (&rows)[kColumns] = rows_[k % kAhead];
      std::fill(rows, rows + kColumns, 0);
      if (k >= end_of_tile_) continue;
      if (k >= kAhead) __builtin_prefetch(&tile_.splats[tile_.ids[k - kAhead]]);
      const T* moments = args_.moments + int64_t{args_.slots[k]} * slot_size_;
      __builtin_prefetch(moments, 1);
      __builtin_prefetch(moments + slot_size_ - 1, 1);
      find_rows(tile_.splats[tile_.ids[k]], centers_, terms_[k % kAhead], rows);
      for (int column = 0; column < kColumns; ++column) {
        for (int i = 0; i < kColumns; ++i) {
          const M ended = less_equal(end_of_rows_[column][i], I{} + static_cast<int32_t>(k));
          rows[column] &= ~(bits(ended) << (i * kLanes));
        }
      }
    }
  }

  // blend_step_vjp of math/blend.h, one lane for each pixel, with alpha / (1 - alpha) taken out:
  //   w = T' r, T = T' + w, dL/dsigma = -alpha dL/dalpha = r (behind - T' u),
  // where r = alpha / (1 - alpha), and T' is the transmittance behind the splat. Where nothing is
  // drawn, r and the cotangents are 0 and nothing changes: the cotangent of such a pixel may be
  // infinite, and 0 times that is NaN.
  void walk_back(int64_t k, T* moments) {
    const int32_t place = static_cast<int32_t>(k);
    const int64_t id = tile_.ids[k];
    const TileSplat<T>& s = tile_.splats[id];
    const T* color = tile_.colors + id * n_channels();
    const RowTerms<T>& terms = terms_[k % kAhead];
    const V* v_channels = v_channels_;
    const bool absolute_too = args_.absolute;
    V m[kMoments] = {};
    V v_color[kChannels <= 0 ? 1 : kChannels] = {};
    if constexpr (kChannels < 0) std::fill(v_color_, v_color_ + n_channels(), V{});
    for (int column = 0; column < kColumns; ++column) {
      const V dx = centers_.x[column] - s.center.x;
      V m0{}, my{};
      for_each_row(rows_[k % kAhead][column], [&](int row) {
        const V exponent = log2_alpha(s.exponent.xx, dx, terms.along[row], terms.offset[row]);
        const M drawn =
            seen(s.exponent.log2_opacity, exponent) & greater(end_[column][row], I{} + place);
        const V uncapped = exp2(exponent);
        const V alpha = masked_minimum(drawn, uncapped, splat(T(kAlphaMax)));
        const V ratio = alpha / (T(1) - alpha);
        const V after = transmittance_[column][row];
        const V w = after * ratio;
        V u{};
        if constexpr (kGeometry) {
          const V v_depth = masked(drawn, v_weighted_depth_[column][row]);
          u = fma(splat(s.depth), v_depth, masked(drawn, v_weight_[column][row]));
          m[kMomentDepth] = fma(w, v_depth, m[kMomentDepth]);
        }
        const V* v = v_channels + (column * kTileSize + row) * n_channels();
        for (int64_t d = 0; d < n_channels(); ++d) {
          const V v_channel = masked(drawn, v[d]);
          u = fma(splat(color[d]), v_channel, u);
          V& sum = kChannels < 0 ? v_color_[d] : v_color[d];
          sum = fma(w, v_channel, sum);
        }
        const M free = drawn & less_equal(uncapped, splat(T(kAlphaMax)));
        const V v_sigma = masked_product(free, ratio, fma(-after, u, behind_[column][row]));
        behind_[column][row] = fma(w, u, behind_[column][row]);
        transmittance_[column][row] = after + w;
        const T dy = terms.dy[row];
        const V v_sigma_dy = v_sigma * dy;
        m0 += v_sigma;
        my += v_sigma_dy;
        m[kMomentYY] = fma(v_sigma_dy, splat(dy), m[kMomentYY]);
        if (absolute_too) {
          const V x = v_sigma * (T(2) * s.exponent.xx * dx + s.exponent.xy * dy);
          const V y = v_sigma * (s.exponent.xy * dx + T(2) * s.exponent.yy * dy);
          m[kMomentAbsX] += select(free, absolute(x), V{});
          m[kMomentAbsY] += select(free, absolute(y), V{});
        }
      });
      // dx is the same in all rows of a column.
      m[kMoment0] += m0;
      m[kMomentY] += my;
      m[kMomentX] = fma(m0, dx, m[kMomentX]);
      m[kMomentXX] = fma(m0 * dx, dx, m[kMomentXX]);
      m[kMomentXY] = fma(my, dx, m[kMomentXY]);
    }
    constexpr int kSums = kMoments + (kChannels < 0 ? 0 : kChannels);
    V sums[kSums];
    std::copy(m, m + kMoments, sums);
    for (int d = 0; d < kChannels; ++d) sums[kMoments + d] = v_color[d];
    store_sums<kSums>(moments, sums);
    for (int64_t d = kSums - kMoments; d < tile_.n_channels; ++d) {
      moments[kMoments + d] = d < n_channels() ? sum<T>(v_color_[d]) : T(0);
    }
  }

  const TileBackward<T>& args_;
  const Tile<T>& tile_;
  const int64_t slot_size_;  // the same whether or not the image has a cotangent
  const PixelCenters<T> centers_;
  V transmittance_[kColumns][kTileSize] = {};  // behind the next splat
  V behind_[kColumns][kTileSize] = {};  // see blend_step_vjp
  V v_weight_[kGeometry ? kColumns : 1][kTileSize] = {};  // dL/d(sum w)
  V v_weighted_depth_[kGeometry ? kColumns : 1][kTileSize] = {};  // dL/d(sum w z)
  I end_[kColumns][kTileSize] = {};  // the place in the list from which nothing is drawn
  I end_of_rows_[kColumns][kColumns] = {};  // the largest in each row of a column; a lane is a row
  int32_t end_of_tile_ = 0;
  V* v_channels_;  // [column][row][channel]
  V* v_color_;  // [channel]
  RowTerms<T> terms_[kAhead];
  uint32_t rows_[kAhead][kColumns];
};

template <typename T, int kChannels>
void backward_of_channels(const TileBackward<T>& args) {
  if (args.v_depth || args.v_weight) return BackwardTile<T, kChannels, true>(args).run();
  BackwardTile<T, kChannels, false>(args).run();
}

template <typename T>
void backward(const TileBackward<T>& args) {
  if (!args.v_image) return backward_of_channels<T, 0>(args);
  with_channels(args.tile.n_channels,
                [&](auto n_channels) { backward_of_channels<T, n_channels>(args); });
}

}  // namespace

extern const BlendBackwardKernels<float> kBlendBackwardFloat;
extern const BlendBackwardKernels<double> kBlendBackwardDouble;
const BlendBackwardKernels<float> kBlendBackwardFloat{backward<float>};
const BlendBackwardKernels<double> kBlendBackwardDouble{backward<double>};

}  // namespace jgd::cpu::JGD_ISA
