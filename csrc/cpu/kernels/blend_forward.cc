// Blends the list of one tile into its pixels, front to back, one vector of pixels at a time.
//
// The list is cut into pieces, and each row of the tile walks through a piece, so that the sums of
// its pixels stay in registers while splats pass. The exponent is tested before an exponential is
// spent on it, and most splats that would fail the test in a row are skipped without one.

#include <algorithm>
#include <cstring>

#include "cpu/kernels/blend.h"
#include "cpu/kernels/tile_pixels.h"
#include "cpu/kernels/tile_rows.h"
#include "cpu/simd/vector.h"
#include "math/constants.h"

namespace jgd::cpu::JGD_ISA {
namespace {

// Transposes the 8x8 matrix of bits whose rows are the bytes of `m` (Warren, Hacker's Delight,
// section 7-3).
inline uint64_t transpose8x8(uint64_t m) {
  uint64_t t = (m ^ (m >> 7)) & 0x00AA00AA00AA00AA;
  m ^= t ^ (t << 7);
  t = (m ^ (m >> 14)) & 0x0000CCCC0000CCCC;
  m ^= t ^ (t << 14);
  t = (m ^ (m >> 28)) & 0x00000000F0F0F0F0;
  return m ^ t ^ (t << 28);
}

// The fields of a splat that all rows of the tile read.
template <typename T, int kChannels>
struct RowSplat {
  T center_x, xx, log2_opacity, depth;
  T color[kChannels <= 0 ? 1 : kChannels];
};

// A piece of the list, short enough to stay in the first-level cache while one row of the tile
// after the other walks through it.
template <typename T, int kChannels>
struct Piece {
  static constexpr int kSplats = 64;
  static constexpr int kColumns = Lanes<T>::kColumns;
  RowTerms<T> terms[kSplats];
  RowSplat<T, kChannels> splats[kSplats];
  uint8_t rows[kColumns][2][kSplats];      // one bit for each row that may see the splat
  uint64_t reaching[kColumns][kTileSize];  // one bit for each splat that the row may see

  void transpose_rows() {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "byte i of m is bits 8 i to 8 i + 7");
    for (int column = 0; column < kColumns; ++column) {
      uint8_t bytes[kTileSize][8];
      for (int half = 0; half < 2; ++half) {
        for (int group = 0; group < 8; ++group) {
          uint64_t m;
          std::memcpy(&m, &rows[column][half][8 * group], sizeof(m));
          m = transpose8x8(m);
          for (int row = 0; row < 8; ++row) {
            bytes[8 * half + row][group] = static_cast<uint8_t>(m >> (8 * row));
          }
        }
      }
      std::memcpy(reaching[column], bytes, sizeof(bytes));
    }
  }
};

// kChannels < 0: any number, known at run time.
template <typename T, int kChannels, bool kMedian>
class ForwardTile {
  using V = typename Lanes<T>::V;
  using I = typename Lanes<T>::I;
  using M = typename Lanes<T>::M;
  static constexpr int kColumns = Lanes<T>::kColumns;

 public:
  explicit ForwardTile(const TileForward<T>& args)
      : args_(args),
        tile_(args.tile),
        centers_(args.tile),
        channels_(reinterpret_cast<V*>(args.tile.scratch)) {
    const V nowhere = splat(kNaN<T>);
    for (int column = 0; column < kColumns; ++column) {
      live_rows_[column] = 0;
      for (int row = 0; row < kTileSize; ++row) {
        x_[column][row] = nowhere;
        transmittance_[column][row] = splat(T(1));
        weight_[column][row] = weighted_depth_[column][row] = V{};
        end_[column][row] = I{} + static_cast<int32_t>(tile_.n);
        if constexpr (kMedian) median_[column][row] = I{} - 1;
      }
    }
    std::fill(tile_.scratch, tile_.scratch + n_channels() * kTileSize * kTileSize, T(0));
    for_each_vector(tile_, [&](int64_t, int row, int column, int n_lanes) {
      for (int lane = 0; lane < n_lanes; ++lane) {
        x_[column][row][lane] = centers_.x[column][lane];
      }
      live_rows_[column] |= uint32_t{1} << row;
    });
  }

  void run() {
    for (int64_t first = 0; first < tile_.n && any_live(); first += kSplats) {
      gather(first);
      for (int column = 0; column < kColumns; ++column) {
        for_each_row(live_rows_[column], [&](int row) { blend_row(first, column, row); });
      }
    }
    for_each_vector(tile_, [&](int64_t pixel, int row, int column, int n_lanes) {
      write(pixel, row, column, n_lanes);
    });
  }

 private:
  static constexpr int kSplats = Piece<T, kChannels>::kSplats;

  int64_t n_channels() const { return kChannels < 0 ? tile_.n_channels : kChannels; }

  bool any_live() const {
    uint32_t rows = 0;
    for (const uint32_t r : live_rows_) rows |= r;
    return rows != 0;
  }

  V* sums_of(int column, int row) { return channels_ + (column * kTileSize + row) * n_channels(); }

  // Fills the piece with the splats [first, first + kSplats) of the list, or with those that are
  // left.
  void gather(int64_t first) {
    // A local copy: the compiler assumes that the stores below may change tile_, and would load it
    // again after each of them.
    const Tile<T> tile = tile_;
    const int n = static_cast<int>(std::min<int64_t>(kSplats, tile.n - first));
    std::memset(piece_.rows, 0, sizeof(piece_.rows));
    for (int k = 0; k < n; ++k) {
      constexpr int kAhead = 8;
      if (first + k + kAhead < tile.n) {
        __builtin_prefetch(&tile.splats[tile.ids[first + k + kAhead]]);
      }
      if (first + k < kTileSize) request_pixels(first + k);  // one row for each splat
      const int64_t id = tile.ids[first + k];
      const TileSplat<T>& s = tile.splats[id];
      RowSplat<T, kChannels>& r = piece_.splats[k];
      r.center_x = s.center.x;
      r.xx = s.exponent.xx;
      r.log2_opacity = s.exponent.log2_opacity;
      r.depth = s.depth;
      for (int d = 0; d < kChannels; ++d) r.color[d] = tile.colors[id * kChannels + d];
      uint32_t rows[kColumns];
      find_rows(s, centers_, piece_.terms[k], rows);
      for (int column = 0; column < kColumns; ++column) {
        piece_.rows[column][0][k] = static_cast<uint8_t>(rows[column]);
        piece_.rows[column][1][k] = static_cast<uint8_t>(rows[column] >> 8);
      }
    }
    piece_.transpose_rows();
  }

  // Prefetches the memory that a row of pixels is written to in the end.
  void request_pixels(int64_t row) const {
    if (tile_.y + row >= tile_.height) return;
    const int64_t pixel = (tile_.y + row) * tile_.width + tile_.x;
    prefetch_pixels(args_.image, pixel, n_channels());
    prefetch_pixels(args_.depth, pixel, 1);
    prefetch_pixels(args_.weight, pixel, 1);
    prefetch_pixels(args_.transmittance, pixel, 1);
    prefetch_pixels(args_.last, pixel, 1);
  }

  // blend_step of math/blend.h, one lane for each pixel (with T - w for T (1 - alpha), which rounds
  // differently). Where nothing is drawn, w is 0 and nothing changes. A pixel that has ended has
  // NaN for its x and sees nothing.
  void blend_row(int64_t first, int column, int row) {
    uint64_t reaching = piece_.reaching[column][row];
    if (reaching == 0) return;
    V x = x_[column][row];
    V t = transmittance_[column][row];
    V weight = weight_[column][row];
    V weighted_depth = weighted_depth_[column][row];
    V* sums = sums_of(column, row);
    V color[kChannels <= 0 ? 1 : kChannels];
    for (int d = 0; d < kChannels; ++d) color[d] = sums[d];
    for (; reaching; reaching &= reaching - 1) {
      const int k = __builtin_ctzll(reaching);
      const RowSplat<T, kChannels>& s = piece_.splats[k];
      const RowTerms<T>& terms = piece_.terms[k];
      const V exponent = log2_alpha(s.xx, x - s.center_x, terms.along[row], terms.offset[row]);
      const M drawn = seen(s.log2_opacity, exponent);
      V w = masked_minimum(drawn, exp2(exponent), splat(T(kAlphaMax))) * t;
      V after = t - w;
      const M goes_on = less_equal(splat(T(kTransmittanceMin)), after);
      if (__builtin_expect(!all_lanes<T>(goes_on), 0)) {
        w = select(goes_on, w, V{});
        after = select(goes_on, after, t);
        x = select(goes_on, x, splat(kNaN<T>));
        end_[column][row] =
            select(goes_on, end_[column][row], I{} + static_cast<int32_t>(first + k));
      }
      if constexpr (kMedian) {
        const V half = splat(T(kTransmittanceMedian));
        const M crosses = ~less_equal(t, half) & less_equal(after, half);
        median_[column][row] = select(crosses, I{} + tile_.ids[first + k], median_[column][row]);
      }
      t = after;
      weight += w;
      weighted_depth = fma(w, splat(s.depth), weighted_depth);
      if constexpr (kChannels < 0) {
        const T* c = tile_.colors + tile_.ids[first + k] * n_channels();
        for (int64_t d = 0; d < n_channels(); ++d) sums[d] = fma(w, splat(c[d]), sums[d]);
      } else {
        for (int d = 0; d < kChannels; ++d) color[d] = fma(w, splat(s.color[d]), color[d]);
      }
    }
    x_[column][row] = x;
    transmittance_[column][row] = t;
    weight_[column][row] = weight;
    weighted_depth_[column][row] = weighted_depth;
    for (int d = 0; d < kChannels; ++d) sums[d] = color[d];
    if (!any(less_equal(x, x))) live_rows_[column] &= ~(uint32_t{1} << row);
  }

  void write(int64_t pixel, int row, int column, int n_lanes) {
    const V weight = weight_[column][row];
    const V t = transmittance_[column][row];
    const V depth = select(less_equal(weight, V{}), V{}, weighted_depth_[column][row] / weight);
    store_pixels(args_.weight + pixel, weight, n_lanes);
    store_pixels(args_.depth + pixel, depth, n_lanes);
    V* sums = sums_of(column, row);
    for (int64_t d = 0; d < n_channels(); ++d) {
      sums[d] = fma(t, splat(tile_.background[d]), sums[d]);
    }
    store_channels<kChannels>(args_.image + pixel * n_channels(), sums, n_lanes, n_channels());
    if constexpr (kMedian) store_ints<T>(args_.median + pixel, median_[column][row], n_lanes);
    if (!args_.last) return;  // no backward pass follows
    store_pixels(args_.transmittance + pixel, t, n_lanes);
    store_ints<T>(args_.last + pixel, end_[column][row], n_lanes);
  }

  const TileForward<T>& args_;
  const Tile<T>& tile_;
  const PixelCenters<T> centers_;
  uint32_t live_rows_[kColumns];  // one bit for each row with a pixel that has not ended
  V x_[kColumns][kTileSize];      // of the pixels; NaN outside the image and where one has ended
  V transmittance_[kColumns][kTileSize];
  V weight_[kColumns][kTileSize];
  V weighted_depth_[kColumns][kTileSize];
  I end_[kColumns][kTileSize];  // the place in the list from which nothing is drawn
  I median_[kMedian ? kColumns : 1][kMedian ? kTileSize : 1];
  V* channels_;  // [column][row][channel]
  Piece<T, kChannels> piece_;
};

template <typename T>
void forward(const TileForward<T>& args) {
  with_channels(args.tile.n_channels, [&](auto n_channels) {
    if (args.median) return ForwardTile<T, n_channels, true>(args).run();
    ForwardTile<T, n_channels, false>(args).run();
  });
}

}  // namespace

extern const BlendForwardKernels<float> kBlendForwardFloat;
extern const BlendForwardKernels<double> kBlendForwardDouble;
const BlendForwardKernels<float> kBlendForwardFloat{forward<float>};
const BlendForwardKernels<double> kBlendForwardDouble{forward<double>};

}  // namespace jgd::cpu::JGD_ISA
