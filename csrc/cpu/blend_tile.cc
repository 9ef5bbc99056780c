// One vector holds consecutive pixels of a row; the state of the tile stays in the first-level
// cache while its list streams past. Pixels are independent, so the walk may visit the part of
// the tile that a splat can reach in any order.

#include "cpu/blend_tile.h"

#include <algorithm>
#include <cstring>

#include "cpu/simd.h"
#include "math/constants.h"

namespace jgd::cpu::JGD_ISA {
namespace {

// A tile as columns of vectors: kColumns vectors beside each other, kTileSize rows.
template <typename T>
struct Lanes {
  using V = typename Simd<T>::V;
  using I = typename Simd<T>::I;
  using M = typename Simd<T>::M;
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kColumns = kTileSize / kLanes;
};

// Coordinates of the pixel centres of a tile: x by column of vectors, y by row.
template <typename T>
struct PixelCenters {
  typename Lanes<T>::V x[Lanes<T>::kColumns];
  T y[kTileSize];
  explicit PixelCenters(const Tile<T>& tile) {
    for (int j = 0; j < kTileSize; ++j) {
      x[j / Lanes<T>::kLanes][j % Lanes<T>::kLanes] = T(tile.x + j) + T(0.5);
      y[j] = T(tile.y + j) + T(0.5);
    }
  }
};

// Where a splat can reach into the tile: rows and columns of vectors.
template <typename T>
struct Reach {
  int row_begin, row_end, column_begin, column_end;
  Reach(const PackedSplat<T>& s, int x, int y) {
    constexpr int kLanes = Lanes<T>::kLanes;
    row_begin = std::max(s.rows.begin - y, 0);
    row_end = std::min(s.rows.end - y, kTileSize);
    column_begin = std::max(s.columns.begin - x, 0) / kLanes;
    column_end = (std::min(s.columns.end - x, kTileSize) + kLanes - 1) / kLanes;
  }
};

// log2(opacity exp(-sigma)) along a row; `slope` is exponent.xx dx.
template <typename T, typename V>
V log2_alpha(const PackedSplat<T>& s, V dx, V slope, T dy) {
  return fma(dx, slope + s.exponent.xy * dy,
             splat(s.exponent.log2_opacity + s.exponent.yy * dy * dy));
}

// Lanes where the splat is seen: alpha >= 1/255 and sigma >= 0, tested before the exponential is
// spent on them.
template <typename T, typename V>
auto seen(const PackedSplat<T>& s, V exponent) {
  return less_equal(splat(T(kLog2AlphaMin)), exponent) &
         less_equal(exponent, splat(s.exponent.log2_opacity));
}

template <typename V, typename T>
V minimum(V v, T bound) {
  return select(less_equal(v, splat(bound)), v, splat(bound));
}

// n <= kLanes numbers, `stride` apart. The full vector is a case of its own: the compiler unrolls
// it, and all but the tiles at the right border of the image take it.
template <typename T>
typename Lanes<T>::V load(const T* data, int n, int64_t stride = 1) {
  typename Lanes<T>::V v{};
  if (n == Lanes<T>::kLanes && stride == 1) {
    std::memcpy(&v, data, sizeof(v));
  } else if (n == Lanes<T>::kLanes) {
    for (int i = 0; i < Lanes<T>::kLanes; ++i) v[i] = data[i * stride];
  } else {
    for (int i = 0; i < n; ++i) v[i] = data[i * stride];
  }
  return v;
}

template <typename T, typename V>
void store(T* data, V v, int n, int64_t stride = 1) {
  if (n == Lanes<T>::kLanes && stride == 1) {
    std::memcpy(data, &v, sizeof(v));
  } else if (n == Lanes<T>::kLanes) {
    for (int i = 0; i < Lanes<T>::kLanes; ++i) data[i * stride] = v[i];
  } else {
    for (int i = 0; i < n; ++i) data[i * stride] = v[i];
  }
}

// Calls body(first pixel, row, column, number of lanes) for the vectors of the tile, or the part of
// them that lies in the image.
template <typename T, typename Body>
void for_each_vector(const Tile<T>& tile, const Body& body) {
  constexpr int kLanes = Lanes<T>::kLanes;
  const int n_rows = std::min(kTileSize, tile.height - tile.y);
  const int n_columns = std::min(kTileSize, tile.width - tile.x);
  for (int row = 0; row < n_rows; ++row) {
    const int64_t first = int64_t{tile.y + row} * tile.width + tile.x;
    for (int j = 0; j < n_columns; j += kLanes) {
      body(first + j, row, j / kLanes, std::min(kLanes, n_columns - j));
    }
  }
}

// kChannels < 0: any number, known at run time.
template <typename T, int kChannels, bool kMedian>
void forward(const TileForward<T>& args) {
  using V = typename Lanes<T>::V;
  using I = typename Lanes<T>::I;
  using M = typename Lanes<T>::M;
  constexpr int kColumns = Lanes<T>::kColumns;
  const Tile<T>& tile = args.tile;
  const int64_t n_channels = kChannels < 0 ? tile.n_channels : kChannels;

  const PixelCenters<T> centers(tile);
  V transmittance[kColumns][kTileSize];
  V weight[kColumns][kTileSize] = {};
  V weighted_depth[kColumns][kTileSize] = {};
  M live[kColumns][kTileSize] = {};  // pixels of the image that have not ended
  I last[kColumns][kTileSize] = {};
  I median[kMedian ? kColumns : 1][kTileSize];
  for (auto& column : median) std::fill(column, column + kTileSize, I{} - 1);
  uint32_t live_rows[kColumns] = {};
  V* channels = reinterpret_cast<V*>(tile.scratch);  // [column][row][channel]
  std::fill(tile.scratch, tile.scratch + n_channels * kTileSize * kTileSize, T(0));
  for_each_vector(tile, [&](int64_t, int row, int column, int n_lanes) {
    for (int lane = 0; lane < n_lanes; ++lane) set_lane(live[column][row], lane);
    live_rows[column] |= uint32_t{1} << row;
  });
  for (auto& column : transmittance) std::fill(column, column + kTileSize, splat(T(1)));

  for (int64_t k = 0; k < tile.n; ++k) {
    const int32_t rank = tile.ranks[k];
    const PackedSplat<T>& s = tile.splats[rank];
    const T* color = tile.colors + s.id * n_channels;
    const Reach<T> reach(s, tile.x, tile.y);
    uint32_t any_live = 0;
    for (uint32_t rows : live_rows) any_live |= rows;
    if (any_live == 0) break;
    for (int column = reach.column_begin; column < reach.column_end; ++column) {
      const V dx = centers.x[column] - s.center.x;
      const V slope = s.exponent.xx * dx;
      for (int row = reach.row_begin; row < reach.row_end; ++row) {
        if (!(live_rows[column] >> row & 1)) continue;
        const T dy = centers.y[row] - s.center.y;
        const V exponent = log2_alpha(s, dx, slope, dy);
        M drawn = seen(s, exponent) & live[column][row];
        if (!any(drawn)) continue;
        const V alpha = minimum(exp2(exponent), T(kAlphaMax));
        const V before = transmittance[column][row];
        const V after = before * (T(1) - alpha);
        const M ends = drawn & ~less_equal(splat(T(kTransmittanceMin)), after);
        if (any(ends)) {
          live[column][row] &= ~ends;
          if (!any(live[column][row])) live_rows[column] &= ~(uint32_t{1} << row);
          drawn &= ~ends;
        }
        const V w = select(drawn, alpha * before, V{});
        transmittance[column][row] = select(drawn, after, before);
        if constexpr (kMedian) {
          const V half = splat(T(kTransmittanceMedian));
          const M crosses = drawn & ~less_equal(before, half) & less_equal(after, half);
          median[column][row] = select(crosses, I{} + s.id, median[column][row]);
        }
        weight[column][row] += w;
        weighted_depth[column][row] = fma(w, splat(s.depth), weighted_depth[column][row]);
        last[column][row] = select(drawn, I{} + (rank + 1), last[column][row]);
        V* sums = channels + (column * kTileSize + row) * n_channels;
        for (int64_t d = 0; d < n_channels; ++d) sums[d] = fma(w, splat(color[d]), sums[d]);
      }
    }
  }

  for_each_vector(tile, [&](int64_t pixel, int row, int column, int n_lanes) {
    const V w = weight[column][row];
    const V t = transmittance[column][row];
    store(args.weight + pixel, w, n_lanes);
    store(args.depth + pixel, select(less_equal(w, V{}), V{}, weighted_depth[column][row] / w),
          n_lanes);
    const V* sums = channels + (column * kTileSize + row) * n_channels;
    for (int64_t d = 0; d < n_channels; ++d) {
      store(args.image + pixel * n_channels + d, fma(t, splat(tile.background[d]), sums[d]),
            n_lanes, n_channels);
    }
    if constexpr (kMedian) {
      for (int lane = 0; lane < n_lanes; ++lane) {
        args.median[pixel + lane] = static_cast<int32_t>(median[column][row][lane]);
      }
    }
    if (!args.last) return;  // no backward pass follows
    store(args.transmittance + pixel, t, n_lanes);
    for (int lane = 0; lane < n_lanes; ++lane) {
      args.last[pixel + lane] = static_cast<int32_t>(last[column][row][lane]);
    }
  });
}

// Each pixel is walked from its last contributor to the front: blend_step_vjp of math/blend.h, one
// lane for each pixel.
template <typename T, int kChannels>
void backward(const TileBackward<T>& args) {
  using V = typename Lanes<T>::V;
  using I = typename Lanes<T>::I;
  using M = typename Lanes<T>::M;
  constexpr int kColumns = Lanes<T>::kColumns;
  const Tile<T>& tile = args.tile;
  // Without a cotangent of the image no colour takes part; the slots keep their size.
  const int64_t n_channels = kChannels < 0 ? tile.n_channels : kChannels;
  const int64_t slot_size = kMoments + tile.n_channels;

  const PixelCenters<T> centers(tile);
  V transmittance[kColumns][kTileSize] = {};
  V behind[kColumns][kTileSize] = {};
  V v_weight[kColumns][kTileSize] = {};          // dL/d(sum w), from weight and depth
  V v_weighted_depth[kColumns][kTileSize] = {};  // dL/d(sum w z)
  I last[kColumns][kTileSize] = {};
  int32_t last_in_row[kColumns][kTileSize] = {};
  int32_t last_in_tile = 0;
  V* v_channels = reinterpret_cast<V*>(tile.scratch);  // [column][row][channel]
  V* v_color = v_channels + n_channels * kColumns * kTileSize;
  std::fill(tile.scratch, tile.scratch + n_channels * kTileSize * kTileSize, T(0));
  for_each_vector(tile, [&](int64_t pixel, int row, int column, int n_lanes) {
    int32_t& last_in_vector = last_in_row[column][row];
    for (int lane = 0; lane < n_lanes; ++lane) {
      last[column][row][lane] = args.last[pixel + lane];
      last_in_vector = std::max(last_in_vector, args.last[pixel + lane]);
    }
    last_in_tile = std::max(last_in_tile, last_in_vector);
    const V t = transmittance[column][row] = load(args.transmittance + pixel, n_lanes);
    if (args.v_weight) v_weight[column][row] = load(args.v_weight + pixel, n_lanes);
    if (args.v_depth) {
      const V w = load(args.weight + pixel, n_lanes);
      const V v = load(args.v_depth + pixel, n_lanes) / w;
      v_weighted_depth[column][row] = select(less_equal(w, V{}), V{}, v);
      v_weight[column][row] -= v_weighted_depth[column][row] * load(args.depth + pixel, n_lanes);
    }
    V* v_pixel = v_channels + (column * kTileSize + row) * n_channels;
    V v_end{};
    for (int64_t d = 0; d < n_channels; ++d) {
      v_pixel[d] = load(args.v_image + pixel * n_channels + d, n_lanes, n_channels);
      v_end = fma(v_pixel[d], splat(tile.background[d]), v_end);
      if (args.v_background) args.v_background[d] += sum<T>(t * v_pixel[d]);
    }
    behind[column][row] = t * v_end;
  });

  for (int64_t k = tile.n - 1; k >= 0; --k) {
    const int32_t rank = tile.ranks[k];
    T* moments = args.moments + int64_t{args.slots[k]} * slot_size;
    std::fill(moments, moments + slot_size, T(0));
    if (rank >= last_in_tile) continue;
    const PackedSplat<T>& s = tile.splats[rank];
    const T* color = tile.colors + s.id * n_channels;
    const Reach<T> reach(s, tile.x, tile.y);
    V m0{}, mx{}, my{}, mxx{}, mxy{}, myy{}, v_depth{}, abs_x{}, abs_y{};
    for (int64_t d = 0; d < n_channels; ++d) v_color[d] = V{};
    for (int column = reach.column_begin; column < reach.column_end; ++column) {
      const V dx = centers.x[column] - s.center.x;
      const V slope = s.exponent.xx * dx;
      for (int row = reach.row_begin; row < reach.row_end; ++row) {
        if (rank >= last_in_row[column][row]) continue;
        const T dy = centers.y[row] - s.center.y;
        const V exponent = log2_alpha(s, dx, slope, dy);
        const M drawn = seen(s, exponent) & greater(last[column][row], I{} + rank);
        if (!any(drawn)) continue;
        const V uncapped = exp2(exponent);
        const V alpha = minimum(uncapped, T(kAlphaMax));
        const V inverse = T(1) / (T(1) - alpha);
        const V before = transmittance[column][row] * inverse;
        const V w = select(drawn, alpha * before, V{});
        V u = fma(splat(s.depth), v_weighted_depth[column][row], v_weight[column][row]);
        const V* v = v_channels + (column * kTileSize + row) * n_channels;
        for (int64_t d = 0; d < n_channels; ++d) {
          u = fma(splat(color[d]), v[d], u);
          v_color[d] = fma(w, v[d], v_color[d]);
        }
        v_depth = fma(w, v_weighted_depth[column][row], v_depth);
        const V v_alpha = before * u - behind[column][row] * inverse;
        behind[column][row] = fma(w, u, behind[column][row]);
        transmittance[column][row] = select(drawn, before, transmittance[column][row]);
        const M free = drawn & less_equal(uncapped, splat(T(kAlphaMax)));
        const V v_sigma = select(free, -alpha * v_alpha, V{});
        const V v_sigma_dx = v_sigma * dx;
        m0 += v_sigma;
        mx += v_sigma_dx;
        mxx = fma(v_sigma_dx, dx, mxx);
        my = fma(v_sigma, splat(dy), my);
        mxy = fma(v_sigma_dx, splat(dy), mxy);
        myy = fma(v_sigma, splat(dy * dy), myy);
        if (args.absolute) {
          const V x = v_sigma * (T(2) * slope + s.exponent.xy * dy);
          const V y = v_sigma * (s.exponent.xy * dx + T(2) * s.exponent.yy * dy);
          abs_x += select(less_equal(x, V{}), -x, x);
          abs_y += select(less_equal(y, V{}), -y, y);
        }
      }
    }
    moments[kMoment0] = sum<T>(m0);
    moments[kMomentX] = sum<T>(mx);
    moments[kMomentY] = sum<T>(my);
    moments[kMomentXX] = sum<T>(mxx);
    moments[kMomentXY] = sum<T>(mxy);
    moments[kMomentYY] = sum<T>(myy);
    moments[kMomentDepth] = sum<T>(v_depth);
    if (args.absolute) {
      moments[kMomentAbsX] = sum<T>(abs_x);
      moments[kMomentAbsY] = sum<T>(abs_y);
    }
    for (int64_t d = 0; d < n_channels; ++d) moments[kMoments + d] = sum<T>(v_color[d]);
  }
}

template <typename T, bool kMedian>
void forward_channels(const TileForward<T>& args) {
  switch (args.tile.n_channels) {
    case 1:
      return forward<T, 1, kMedian>(args);
    case 3:
      return forward<T, 3, kMedian>(args);
    case 4:
      return forward<T, 4, kMedian>(args);
    default:
      return forward<T, -1, kMedian>(args);
  }
}

template <typename T>
void forward_any(const TileForward<T>& args) {
  return args.median ? forward_channels<T, true>(args) : forward_channels<T, false>(args);
}

template <typename T>
void backward_any(const TileBackward<T>& args) {
  if (!args.v_image) return backward<T, 0>(args);
  switch (args.tile.n_channels) {
    case 1:
      return backward<T, 1>(args);
    case 3:
      return backward<T, 3>(args);
    case 4:
      return backward<T, 4>(args);
    default:
      return backward<T, -1>(args);
  }
}

}  // namespace

extern const BlendKernels<float> kKernelsFloat;
extern const BlendKernels<double> kKernelsDouble;
const BlendKernels<float> kKernelsFloat{forward_any<float>, backward_any<float>};
const BlendKernels<double> kKernelsDouble{forward_any<double>, backward_any<double>};

}  // namespace jgd::cpu::JGD_ISA
