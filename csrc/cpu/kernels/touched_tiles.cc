// Finds the tiles that each splat touches, kLanes splats at a time.

#include "cpu/kernels/touched_tiles.h"

#include <algorithm>
#include <cstring>

#include "cpu/simd/pack.h"
#include "cpu/simd/pack_arrays.h"

namespace jgd::cpu::JGD_ISA {
namespace {

// The lanes whose colours, n_channels each, are finite.
template <typename T>
PackMask<T> finite_colors(const T* colors, int64_t n_channels, int n) {
  constexpr int kLanes = Simd<T>::kLanes;
  const int64_t size = n * n_channels;
  PackMask<T> all = PackMask<T>::all();
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) all = all && is_finite(load(colors, i, kLanes));
  if (i < size) all = all && is_finite(load(colors, i, static_cast<int>(size - i)));
  if (all_of(all)) return all;
  Pack<T> zero(0);  // becomes NaN where a colour is not finite
  for (int64_t d = 0; d < size; ++d) zero.v[d / n_channels] += T(0) * colors[d];
  return zero == Pack<T>(0);
}

template <typename T>
Footprint<Pack<T>> footprint(const ImageSplats<T>& splats, const Vec2<Pack<T>>& center,
                             const Sym2<Pack<T>>& conic, Pack<T> opacity, PackInt<T> radius) {
  if (splats.three_sigma) return square_footprint(center, radius);
  return ellipse_footprint(center, conic, opacity);
}

// Stores a footprint in the scratch memory of a piece.
template <typename T>
void keep(T* scratch, const Footprint<Pack<T>>& f) {
  const Pack<T> fields[kFootprintNumbers] = {f.center.x, f.center.y, f.conic.xx,
                                             f.conic.xy, f.conic.yy, f.det,
                                             f.bound,    f.extent.x, f.extent.y};
  std::memcpy(scratch, fields, sizeof(fields));
}

template <typename T>
Footprint<Pack<T>> kept(const T* scratch, bool rectangle) {
  Pack<T> v[kFootprintNumbers];
  std::memcpy(v, scratch, sizeof(v));
  return {{v[0], v[1]}, {v[2], v[3], v[4]}, v[5], v[6], {v[7], v[8]}, rectangle};
}

template <typename T>
void rows(const IndexPiece<T>& piece, int64_t begin, int64_t end) {
  const ImageSplats<T>& in = piece.splats;
  constexpr int kLanes = Simd<T>::kLanes;
  for (int64_t id = begin; id < end; id += kLanes) {
    const int n = pack_size<T>(id, end);
    const PackInt<T> radius = load_int<T>(in.radii, id, n);
    PackInt<T> row_begin(0), row_end(0);
    if (!none_of(radius > PackInt<T>(0))) {
      const Vec2<Pack<T>> center = load_vec2(in.means2d, id, n);
      const Sym2<Pack<T>> conic = load_sym2(in.conics, id, n);
      const Pack<T> opacity = load(in.opacities, id, n);
      const Pack<T> depth = load(in.depths, id, n);
      PackMask<T> drawn = drawable(center, depth, conic, opacity, radius);
      if (piece.colors) {
        drawn = drawn && finite_colors(piece.colors + id * piece.n_channels, piece.n_channels, n);
      }
      const Footprint<Pack<T>> f = footprint(in, center, conic, opacity, radius);
      const RangeOf<PackInt<T>> touched = tile_rows(f, piece.n_tiles_y);
      row_begin = select(drawn, touched.begin, PackInt<T>(0));
      row_end = select(drawn, touched.end, PackInt<T>(0));
      keep(piece.scratch + kFootprintNumbers * (id - begin), f);
      const Exponent<Pack<T>> e = make_exponent(conic, opacity);
      const Pack<T> vertex = Pack<T>(-0.5) / e.xx;
      // In the order of the fields of TileSplat.
      const Pack<T> fields[] = {center.x, center.y,       e.xx,  e.xy,
                                e.yy,     e.log2_opacity, depth, vertex};
      static_assert(sizeof(TileSplat<T>) == 8 * sizeof(T));
      store_fields<8>(reinterpret_cast<T*>(piece.tile_splats + id), n, fields);
    }
    for (int lane = 0; lane < n; ++lane) {
      piece.touched[id + lane].rows = {row_begin[lane], row_end[lane]};
    }
  }
}

template <typename T>
void columns(const IndexPiece<T>& piece, int64_t begin, int64_t end, Range* next) {
  constexpr int kLanes = Simd<T>::kLanes;
  for (int64_t id = begin; id < end; id += kLanes) {
    const int n = pack_size<T>(id, end);
    Range* columns_of[kLanes];
    int sizes[kLanes];
    typename PackInt<T>::I first{};
    int n_rows = 0;
    for (int lane = 0; lane < n; ++lane) {
      TouchedTiles& tiles = piece.touched[id + lane];
      sizes[lane] = tiles.rows.empty() ? 0 : tiles.rows.end - tiles.rows.begin;
      tiles.columns = columns_of[lane] = next;
      next += sizes[lane];
      first[lane] = tiles.rows.begin;
      n_rows = std::max(n_rows, sizes[lane]);
    }
    if (n_rows == 0) continue;
    const Footprint<Pack<T>> f =
        kept(piece.scratch + kFootprintNumbers * (id - begin), piece.splats.three_sigma);
    for (int i = 0; i < n_rows; ++i) {
      const RangeOf<PackInt<T>> c =
          tile_columns(f, PackInt<T>(first) + PackInt<T>(i), piece.n_tiles_x);
      for (int lane = 0; lane < n; ++lane) {
        if (i < sizes[lane]) columns_of[lane][i] = {c.begin[lane], c.end[lane]};
      }
    }
  }
}

}  // namespace

extern const TouchedTilesKernels<float> kTouchedTilesFloat;
extern const TouchedTilesKernels<double> kTouchedTilesDouble;
const TouchedTilesKernels<float> kTouchedTilesFloat{rows<float>, columns<float>};
const TouchedTilesKernels<double> kTouchedTilesDouble{rows<double>, columns<double>};

}  // namespace jgd::cpu::JGD_ISA
