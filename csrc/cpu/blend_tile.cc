// One vector holds consecutive pixels of a row; the state of the tile stays in the first-level
// cache while its list streams past. Pixels are independent, so the walk may visit the part of
// the tile that a splat can reach in any order.

#include "cpu/blend_tile.h"

#include <algorithm>
#include <cstring>

#include "cpu/simd.h"
#include "cpu/tile_rows.h"
#include "math/constants.h"

namespace jgd::cpu::JGD_ISA {
namespace {

// As many 32-bit integers as a vector has lanes, at any address.
template <typename T>
using Int32s __attribute__((vector_size(4 * Lanes<T>::kLanes), may_alias, aligned(4))) = int32_t;

template <typename T>
typename Lanes<T>::V load_pixels(const T* data, int n_lanes) {
  return n_lanes == Lanes<T>::kLanes ? load(data) : load_part(data, n_lanes);
}

template <typename T>
void store_pixels(T* data, typename Lanes<T>::V v, int n_lanes) {
  if (n_lanes == Lanes<T>::kLanes) return store(data, v);
  store_part(data, v, n_lanes);
}

// kChannels < 0: any number, known at run time.
template <int kChannels, typename T>
void load_channels(const T* data, int n_lanes, int64_t n_channels, typename Lanes<T>::V* v) {
  if constexpr (kChannels > 0) {
    using Components = typename Lanes<T>::V[kChannels];
    if (n_lanes == Lanes<T>::kLanes) {
      return load_interleaved<kChannels>(data, *reinterpret_cast<Components*>(v));
    }
  }
  for (int64_t d = 0; d < n_channels; ++d) v[d] = load_part(data + d, n_lanes, n_channels);
}

template <int kChannels, typename T>
void store_channels(T* data, const typename Lanes<T>::V* v, int n_lanes, int64_t n_channels) {
  if constexpr (kChannels > 0) {
    using Components = const typename Lanes<T>::V[kChannels];
    if (n_lanes == Lanes<T>::kLanes) {
      return store_interleaved<kChannels>(data, *reinterpret_cast<Components*>(v));
    }
  }
  for (int64_t d = 0; d < n_channels; ++d) store_part(data + d, v[d], n_lanes, n_channels);
}

template <typename T>
typename Lanes<T>::I load_ints(const int32_t* data, int n_lanes) {
  using I = typename Lanes<T>::I;
  if (n_lanes == Lanes<T>::kLanes) {
    return __builtin_convertvector(*reinterpret_cast<const Int32s<T>*>(data), I);
  }
  I v{};
  for (int i = 0; i < n_lanes; ++i) v[i] = data[i];
  return v;
}

template <typename T>
void store_ints(int32_t* data, typename Lanes<T>::I v, int n_lanes) {
  if (n_lanes == Lanes<T>::kLanes) {
    *reinterpret_cast<Int32s<T>*>(data) = __builtin_convertvector(v, Int32s<T>);
    return;
  }
  for (int i = 0; i < n_lanes; ++i) data[i] = static_cast<int32_t>(v[i]);
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

// What a row needs of a splat.
template <typename T, int kChannels>
struct RowSplat {
  T center_x, xx, log2_opacity, depth;
  T color[kChannels < 0 ? 1 : kChannels];
};

// A piece of the list, so small that it stays in the first-level cache while the rows of the tile
// are walked one after the other.
template <typename T, int kChannels>
struct Chunk {
  static constexpr int kSplats = 64;
  RowTerms<T> terms[kSplats];
  RowSplat<T, kChannels> splats[kSplats];
  uint8_t rows[Lanes<T>::kColumns][2][kSplats];  // that may see a splat: the upper 8, the lower 8
  uint64_t reaching[Lanes<T>::kColumns][kTileSize];  // the splats that a row may see, one bit each
};

// The 8x8 matrix of bits whose rows are the bytes of `m`, transposed (Warren, Hacker's Delight,
// section 7-3).
inline uint64_t transpose8x8(uint64_t m) {
  uint64_t t = (m ^ (m >> 7)) & 0x00AA00AA00AA00AA;
  m ^= t ^ (t << 7);
  t = (m ^ (m >> 14)) & 0x0000CCCC0000CCCC;
  m ^= t ^ (t << 14);
  t = (m ^ (m >> 28)) & 0x00000000F0F0F0F0;
  return m ^ t ^ (t << 28);
}

// From the rows of each splat to the splats of each row.
inline void transpose(const uint8_t (&rows)[2][64], uint64_t (&reaching)[kTileSize]) {
  uint8_t bytes[kTileSize][8];
  for (int half = 0; half < 2; ++half) {
    for (int k = 0; k < 64; k += 8) {
      uint64_t m;
      std::memcpy(&m, &rows[half][k], sizeof(m));
      m = transpose8x8(m);
      for (int row = 0; row < 8; ++row) {
        bytes[8 * half + row][k / 8] = static_cast<uint8_t>(m >> (8 * row));
      }
    }
  }
  std::memcpy(reaching, bytes, sizeof(bytes));
}

// kChannels < 0: any number, known at run time.
//
// Row by row over a chunk of the list, so that what a pixel has collected stays in registers.
template <typename T, int kChannels, bool kMedian>
void forward(const TileForward<T>& args) {
  using V = typename Lanes<T>::V;
  using I = typename Lanes<T>::I;
  using M = typename Lanes<T>::M;
  constexpr int kColumns = Lanes<T>::kColumns;
  const Tile<T>& tile = args.tile;
  const int64_t n_channels = kChannels < 0 ? tile.n_channels : kChannels;

  const PixelCenters<T> centers(tile);
  V pixel_x[kColumns][kTileSize];  // NaN for what is not in the image, and where a pixel has ended
  V transmittance[kColumns][kTileSize];
  V weight[kColumns][kTileSize] = {};
  V weighted_depth[kColumns][kTileSize] = {};
  I last[kColumns][kTileSize];
  I median[kMedian ? kColumns : 1][kTileSize];
  for (auto& column : median) std::fill(column, column + kTileSize, I{} - 1);
  uint32_t live_rows[kColumns] = {};
  V* channels = reinterpret_cast<V*>(tile.scratch);  // [column][row][channel]
  std::fill(tile.scratch, tile.scratch + n_channels * kTileSize * kTileSize, T(0));
  for (auto& column : last) {
    std::fill(column, column + kTileSize, I{} + static_cast<int32_t>(tile.n));
  }
  for (auto& column : pixel_x) std::fill(column, column + kTileSize, splat(kNaN<T>));
  for (auto& column : transmittance) std::fill(column, column + kTileSize, splat(T(1)));
  for_each_vector(tile, [&](int64_t, int row, int column, int n_lanes) {
    for (int lane = 0; lane < n_lanes; ++lane) {
      pixel_x[column][row][lane] = centers.x[column][lane];
    }
    live_rows[column] |= uint32_t{1} << row;
  });

  Chunk<T, kChannels> chunk;
  constexpr int kSplats = Chunk<T, kChannels>::kSplats;
  for (int64_t begin = 0; begin < tile.n; begin += kSplats) {
    uint32_t any_live = 0;
    for (uint32_t rows : live_rows) any_live |= rows;
    if (any_live == 0) break;
    const int n_splats = static_cast<int>(std::min<int64_t>(kSplats, tile.n - begin));
    std::memset(chunk.rows, 0, sizeof(chunk.rows));
    for (int k = 0; k < n_splats; ++k) {
      if (begin + k + 8 < tile.n) __builtin_prefetch(&tile.splats[tile.ids[begin + k + 8]]);
      const int64_t id = tile.ids[begin + k];
      const PackedSplat<T>& s = tile.splats[id];
      const T* color = tile.colors + id * n_channels;
      RowSplat<T, kChannels>& r = chunk.splats[k];
      r.center_x = s.center.x;
      r.xx = s.exponent.xx;
      r.log2_opacity = s.exponent.log2_opacity;
      r.depth = s.depth;
      for (int d = 0; d < kChannels; ++d) r.color[d] = color[d];
      uint32_t rows[kColumns];
      find_rows(s, centers, chunk.terms[k], rows);
      for (int j = 0; j < kColumns; ++j) {
        chunk.rows[j][0][k] = static_cast<uint8_t>(rows[j]);
        chunk.rows[j][1][k] = static_cast<uint8_t>(rows[j] >> 8);
      }
    }
    for (int j = 0; j < kColumns; ++j) transpose(chunk.rows[j], chunk.reaching[j]);
    for (int column = 0; column < kColumns; ++column) {
      for_each_row(live_rows[column], [&](int row) {
        uint64_t reaching = chunk.reaching[column][row];
        if (reaching == 0) return;
        V x = pixel_x[column][row];
        V t = transmittance[column][row];
        V w_sum = weight[column][row];
        V wz_sum = weighted_depth[column][row];
        V* sums = channels + (column * kTileSize + row) * n_channels;
        V c[kChannels < 0 ? 1 : kChannels];
        for (int d = 0; d < kChannels; ++d) c[d] = sums[d];
        for (; reaching; reaching &= reaching - 1) {
          const int k = __builtin_ctzll(reaching);
          const RowSplat<T, kChannels>& s = chunk.splats[k];
          const V exponent = log2_alpha(s.xx, x - s.center_x, chunk.terms[k].along[row],
                                        chunk.terms[k].offset[row]);
          const M drawn = seen(s.log2_opacity, exponent);
          V alpha = select(drawn, minimum(exp2(exponent), T(kAlphaMax)), V{});
          V after = t * (T(1) - alpha);
          const M goes_on = less_equal(splat(T(kTransmittanceMin)), after);
          if (__builtin_expect(!all_lanes<T>(goes_on), 0)) {
            alpha = select(goes_on, alpha, V{});
            after = select(goes_on, after, t);
            x = select(goes_on, x, splat(kNaN<T>));
            last[column][row] = select(goes_on, last[column][row], I{} + static_cast<int32_t>(begin + k));
          }
          const V w = alpha * t;
          if constexpr (kMedian) {
            const V half = splat(T(kTransmittanceMedian));
            const M crosses = ~less_equal(t, half) & less_equal(after, half);
            median[column][row] = select(crosses, I{} + tile.ids[begin + k], median[column][row]);
          }
          t = after;
          w_sum += w;
          wz_sum = fma(w, splat(s.depth), wz_sum);
          if constexpr (kChannels < 0) {
            const T* color = tile.colors + tile.ids[begin + k] * n_channels;
            for (int64_t d = 0; d < n_channels; ++d) sums[d] = fma(w, splat(color[d]), sums[d]);
          } else {
            for (int d = 0; d < kChannels; ++d) c[d] = fma(w, splat(s.color[d]), c[d]);
          }
        }
        pixel_x[column][row] = x;
        transmittance[column][row] = t;
        weight[column][row] = w_sum;
        weighted_depth[column][row] = wz_sum;
        for (int d = 0; d < kChannels; ++d) sums[d] = c[d];
        if (!any(less_equal(x, x))) live_rows[column] &= ~(uint32_t{1} << row);
      });
    }
  }

  for_each_vector(tile, [&](int64_t pixel, int row, int column, int n_lanes) {
    const V w = weight[column][row];
    const V t = transmittance[column][row];
    store_pixels(args.weight + pixel, w, n_lanes);
    store_pixels(args.depth + pixel,
                 select(less_equal(w, V{}), V{}, weighted_depth[column][row] / w), n_lanes);
    V* sums = channels + (column * kTileSize + row) * n_channels;
    for (int64_t d = 0; d < n_channels; ++d) sums[d] = fma(t, splat(tile.background[d]), sums[d]);
    store_channels<kChannels>(args.image + pixel * n_channels, sums, n_lanes, n_channels);
    if constexpr (kMedian) store_ints<T>(args.median + pixel, median[column][row], n_lanes);
    if (!args.last) return;  // no backward pass follows
    store_pixels(args.transmittance + pixel, t, n_lanes);
    store_ints<T>(args.last + pixel, last[column][row], n_lanes);
  });
}

// Each pixel is walked from its last contributor to the front: blend_step_vjp of math/blend.h, one
// lane for each pixel. kGeometry: depth or weight have a cotangent.
template <typename T, int kChannels, bool kGeometry>
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
  V v_weight[kGeometry ? kColumns : 1][kTileSize] = {};          // dL/d(sum w)
  V v_weighted_depth[kGeometry ? kColumns : 1][kTileSize] = {};  // dL/d(sum w z)
  I last[kColumns][kTileSize] = {};
  I last_in_row[kColumns][kColumns] = {};  // for each column of vectors, lanes are rows
  int32_t last_in_tile = 0;
  V* v_channels = reinterpret_cast<V*>(tile.scratch);  // [column][row][channel]
  V* v_color = v_channels + n_channels * kColumns * kTileSize;
  std::fill(tile.scratch, tile.scratch + n_channels * kTileSize * kTileSize, T(0));
  for (int64_t d = 0; d < n_channels; ++d) v_color[d] = V{};
  for_each_vector(tile, [&](int64_t pixel, int row, int column, int n_lanes) {
    last[column][row] = load_ints<T>(args.last + pixel, n_lanes);
    int32_t last_in_vector = 0;
    for (int lane = 0; lane < n_lanes; ++lane) {
      last_in_vector = std::max(last_in_vector, args.last[pixel + lane]);
    }
    last_in_row[column][row / Lanes<T>::kLanes][row % Lanes<T>::kLanes] = last_in_vector;
    last_in_tile = std::max(last_in_tile, last_in_vector);
    const V t = transmittance[column][row] = load_pixels(args.transmittance + pixel, n_lanes);
    if constexpr (kGeometry) {
      if (args.v_weight) v_weight[column][row] = load_pixels(args.v_weight + pixel, n_lanes);
      if (args.v_depth) {
        const V w = load_pixels(args.weight + pixel, n_lanes);
        const V v = load_pixels(args.v_depth + pixel, n_lanes) / w;
        v_weighted_depth[column][row] = select(less_equal(w, V{}), V{}, v);
        v_weight[column][row] -=
            v_weighted_depth[column][row] * load_pixels(args.depth + pixel, n_lanes);
      }
    }
    V* v_pixel = v_channels + (column * kTileSize + row) * n_channels;
    if (n_channels > 0) {
      load_channels<kChannels>(args.v_image + pixel * n_channels, n_lanes, n_channels, v_pixel);
    }
    V v_end{};
    for (int64_t d = 0; d < n_channels; ++d) {
      v_end = fma(v_pixel[d], splat(tile.background[d]), v_end);
      v_color[d] = fma(t, v_pixel[d], v_color[d]);
    }
    behind[column][row] = t * v_end;
  });
  if (args.v_background) {
    for (int64_t d = 0; d < n_channels; ++d) args.v_background[d] = sum<T>(v_color[d]);
  }

  for (int64_t k = tile.n - 1; k >= 0; --k) {
    const int32_t place = static_cast<int32_t>(k);
    T* moments = args.moments + int64_t{args.slots[k]} * slot_size;
    if (place >= last_in_tile) {
      std::fill(moments, moments + slot_size, T(0));
      continue;
    }
    if (k >= 8) __builtin_prefetch(&tile.splats[tile.ids[k - 8]]);
    const int64_t id = tile.ids[k];
    const PackedSplat<T>& s = tile.splats[id];
    const T* color = tile.colors + id * n_channels;
    RowTerms<T> terms;
    uint32_t rows[kColumns];
    find_rows(s, centers, terms, rows);
    // Of the moments, what depends on dx is added once for a column of vectors.
    V m[kMoments] = {};
    V v_splat[kChannels < 0 ? 1 : kChannels] = {};
    if constexpr (kChannels < 0) std::fill(v_color, v_color + n_channels, V{});
    for (int column = 0; column < kColumns; ++column) {
      const V dx = centers.x[column] - s.center.x;
      V m0{}, my{};
      for (int i = 0; i < kColumns; ++i) {
        rows[column] &= ~(bits(less_equal(last_in_row[column][i], I{} + place)) << (i * Lanes<T>::kLanes));
      }
      for_each_row(rows[column], [&](int row) {
        const V exponent = log2_alpha(s.exponent.xx, dx, terms.along[row], terms.offset[row]);
        const M drawn =
            seen(s.exponent.log2_opacity, exponent) & greater(last[column][row], I{} + place);
        const V uncapped = exp2(exponent);
        const V alpha = select(drawn, minimum(uncapped, T(kAlphaMax)), V{});
        const V inverse = T(1) / (T(1) - alpha);
        const V before = transmittance[column][row] * inverse;
        const V w = alpha * before;
        V u{};
        if constexpr (kGeometry) {
          u = fma(splat(s.depth), v_weighted_depth[column][row], v_weight[column][row]);
          m[kMomentDepth] = fma(w, v_weighted_depth[column][row], m[kMomentDepth]);
        }
        const V* v = v_channels + (column * kTileSize + row) * n_channels;
        for (int64_t d = 0; d < n_channels; ++d) {
          u = fma(splat(color[d]), v[d], u);
          V& sum = kChannels < 0 ? v_color[d] : v_splat[d];
          sum = fma(w, v[d], sum);
        }
        const V light = behind[column][row] * inverse;
        behind[column][row] = fma(w, u, behind[column][row]);
        transmittance[column][row] = before;
        const M free = drawn & less_equal(uncapped, splat(T(kAlphaMax)));
        const V v_sigma = select(free, alpha * fma(-before, u, light), V{});
        const T dy = T(tile.y + row) + T(0.5) - s.center.y;
        const V v_sigma_dy = v_sigma * dy;
        m0 += v_sigma;
        my += v_sigma_dy;
        m[kMomentYY] = fma(v_sigma_dy, splat(dy), m[kMomentYY]);
        if (args.absolute) {
          const V x = v_sigma * (T(2) * s.exponent.xx * dx + s.exponent.xy * dy);
          const V y = v_sigma * (s.exponent.xy * dx + T(2) * s.exponent.yy * dy);
          m[kMomentAbsX] += select(free, absolute(x), V{});
          m[kMomentAbsY] += select(free, absolute(y), V{});
        }
      });
      m[kMoment0] += m0;
      m[kMomentY] += my;
      m[kMomentX] = fma(m0, dx, m[kMomentX]);
      m[kMomentXX] = fma(m0 * dx, dx, m[kMomentXX]);
      m[kMomentXY] = fma(my, dx, m[kMomentXY]);
    }
    constexpr int kSums = kMoments + (kChannels < 0 ? 0 : kChannels);
    V sums[kSums];
    for (int i = 0; i < kMoments; ++i) sums[i] = m[i];
    for (int d = 0; d < kChannels; ++d) sums[kMoments + d] = v_splat[d];
    store_sums<kSums>(moments, sums);
    for (int64_t d = kSums - kMoments; d < tile.n_channels; ++d) {
      moments[kMoments + d] = d < n_channels ? sum<T>(v_color[d]) : T(0);
    }
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

template <typename T, bool kGeometry>
void backward_channels(const TileBackward<T>& args) {
  if (!args.v_image) return backward<T, 0, kGeometry>(args);
  switch (args.tile.n_channels) {
    case 1:
      return backward<T, 1, kGeometry>(args);
    case 3:
      return backward<T, 3, kGeometry>(args);
    case 4:
      return backward<T, 4, kGeometry>(args);
    default:
      return backward<T, -1, kGeometry>(args);
  }
}

template <typename T>
void backward_any(const TileBackward<T>& args) {
  if (args.v_depth || args.v_weight) return backward_channels<T, true>(args);
  backward_channels<T, false>(args);
}

}  // namespace

extern const BlendKernels<float> kKernelsFloat;
extern const BlendKernels<double> kKernelsDouble;
const BlendKernels<float> kKernelsFloat{forward_any<float>, backward_any<float>};
const BlendKernels<double> kKernelsDouble{forward_any<double>, backward_any<double>};

}  // namespace jgd::cpu::JGD_ISA
