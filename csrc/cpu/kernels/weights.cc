// Walks the list of one tile, front to back, for the weights alone: the same steps as
// blend_forward.cc, so the weights are those of the image.
//
// One splat after the other passes all rows of the tile, because its statistics are sums over them.

#include "cpu/kernels/weights.h"

#include <algorithm>

#include "cpu/kernels/tile_pixels.h"
#include "cpu/kernels/tile_rows.h"
#include "cpu/simd/vector.h"
#include "math/constants.h"

namespace jgd::cpu::JGD_ISA {
namespace {

template <typename T>
class WeightsTile {
  using V = typename Lanes<T>::V;
  using M = typename Lanes<T>::M;
  static constexpr int kLanes = Lanes<T>::kLanes;
  static constexpr int kColumns = Lanes<T>::kColumns;

 public:
  explicit WeightsTile(const TileWeights<T>& args)
      : args_(args), tile_(args.tile), centers_(args.tile) {
    const V nowhere = splat(kNaN<T>);
    for (int column = 0; column < kColumns; ++column) {
      for (int row = 0; row < kTileSize; ++row) {
        x_[column][row] = nowhere;
        transmittance_[column][row] = splat(T(1));
        smallest_[column][row] = V{};
      }
    }
    for_each_vector(tile_, [&](int64_t pixel, int row, int column, int n_lanes) {
      for (int lane = 0; lane < n_lanes; ++lane) {
        x_[column][row][lane] = centers_.x[column][lane];
      }
      live_rows_[column] |= uint32_t{1} << row;
      if (!args_.ids) return;
      std::fill_n(args_.ids + pixel * args_.k, n_lanes * args_.k, -1);
      std::fill_n(args_.weights + pixel * args_.k, n_lanes * args_.k, T(0));
    });
  }

  void run() {
    for (int64_t k = 0; k < tile_.n; ++k) {
      if (!any_live()) return leave_out(k);
      const SplatWeights<T> part = visit(tile_.ids[k]);
      if (args_.parts) args_.parts[args_.slots[k]] = part;
    }
  }

 private:
  bool any_live() const {
    uint32_t rows = 0;
    for (const uint32_t r : live_rows_) rows |= r;
    return rows != 0;
  }

  // The splats from place `first` are behind pixels that have all ended.
  void leave_out(int64_t first) const {
    for (int64_t k = first; args_.parts && k < tile_.n; ++k) args_.parts[args_.slots[k]] = {};
  }

  // Takes the light of one splat out of the pixels; see blend_row of blend_forward.cc.
  SplatWeights<T> visit(int32_t id) {
    const TileSplat<T>& s = tile_.splats[id];
    uint32_t rows[kColumns];
    find_rows(s, centers_, terms_, rows);
    V total{}, largest{};
    int32_t n_pixels = 0;
    for (int column = 0; column < kColumns; ++column) {
      for_each_row(rows[column] & live_rows_[column], [&](int row) {
        const V x = x_[column][row];
        const V exponent =
            log2_alpha(s.exponent.xx, x - s.center.x, terms_.along[row], terms_.offset[row]);
        const M seen_here = seen(s.exponent.log2_opacity, exponent);
        if (!any(seen_here)) return;
        const V t = transmittance_[column][row];
        V w = masked_minimum(seen_here, exp2(exponent), splat(T(kAlphaMax))) * t;
        V after = t - w;
        const M goes_on = less_equal(splat(T(kTransmittanceMin)), after);
        if (!all_lanes<T>(goes_on)) {
          w = select(goes_on, w, V{});
          after = select(goes_on, after, t);
          x_[column][row] = select(goes_on, x, splat(kNaN<T>));
          if (none_left(column, row)) live_rows_[column] &= ~(uint32_t{1} << row);
        }
        transmittance_[column][row] = after;
        total += w;
        largest = maximum(largest, w);
        n_pixels += __builtin_popcount(bits(seen_here) & bits(goes_on));
        if (args_.ids) insert(row, column, id, w);
      });
    }
    T highest = T(0);
    for (int lane = 0; lane < kLanes; ++lane) highest = std::max<T>(highest, largest[lane]);
    return {highest, sum<T>(total), n_pixels};
  }

  bool none_left(int column, int row) const {
    const V x = x_[column][row];
    return !any(less_equal(x, x));
  }

  // Puts the splat where it belongs among the k of each pixel, if it does. Few do: the first splats
  // of a pixel take most of its light.
  void insert(int row, int column, int32_t id, V w) {
    const int64_t first = int64_t{tile_.y + row} * tile_.width + tile_.x + column * kLanes;
    V& smallest = smallest_[column][row];
    for_each_row(bits(less(smallest, w)), [&](int lane) {
      T* weights = args_.weights + (first + lane) * args_.k;
      int32_t* ids = args_.ids + (first + lane) * args_.k;
      int64_t i = args_.k - 1;
      for (; i > 0 && weights[i - 1] < w[lane]; --i) {
        weights[i] = weights[i - 1];
        ids[i] = ids[i - 1];
      }
      weights[i] = w[lane];
      ids[i] = id;
      smallest[lane] = weights[args_.k - 1];
    });
  }

  const TileWeights<T>& args_;
  const Tile<T>& tile_;
  const PixelCenters<T> centers_;
  uint32_t live_rows_[kColumns] = {};  // one bit for each row with a pixel that has not ended
  V x_[kColumns][kTileSize];  // of the pixels; NaN outside the image and where one has ended
  V transmittance_[kColumns][kTileSize];
  V smallest_[kColumns][kTileSize];  // of the k weights of a pixel
  RowTerms<T> terms_;
};

template <typename T>
void weights(const TileWeights<T>& args) {
  WeightsTile<T>(args).run();
}

}  // namespace

extern const WeightsKernels<float> kWeightsFloat;
extern const WeightsKernels<double> kWeightsDouble;
const WeightsKernels<float> kWeightsFloat{weights<float>};
const WeightsKernels<double> kWeightsDouble{weights<double>};

}  // namespace jgd::cpu::JGD_ISA
