// Tests footprints of packs against footprints of single splats (math/tile.h): the rows and columns
// of tiles of random splats, of needles and of splats that no pixel can see. Compiled for each
// instruction set.

#include <limits>
#include <vector>

#include "check.h"
#include "cpu/simd/pack.h"
#include "isa.h"
#include "math/blend.h"
#include "math/tile.h"

namespace {

using namespace jgd;  // NOLINT
using namespace jgd::cpu::JGD_ISA;  // NOLINT
using test::Uniform;

constexpr int kTiles = 20;

template <typename T>
struct Splat {
  Vec2<T> center;
  Sym2<T> conic;
  T opacity;
};

template <typename T>
Splat<T> RandomSplat(int trial) {
  using Limits = std::numeric_limits<T>;
  const T bad[] = {Limits::quiet_NaN(), Limits::max(), Limits::min(), T(0), T(-1)};
  const auto random = [](double low, double high) { return static_cast<T>(Uniform(low, high)); };
  const T a = std::exp(random(-9, 1)), c = std::exp(random(-9, 1));
  // Up to a needle whose determinant is lost to rounding.
  const T correlation = trial % 4 == 0 ? T(1) - std::exp(random(-40, 0)) : random(-0.9, 0.9);
  Splat<T> s{
      {random(-100, 400), random(-100, 400)}, {a, correlation * std::sqrt(a * c), c}, random(0, 1)};
  if (trial % 5 == 1) *(&s.conic.xx + trial / 5 % 3) = bad[trial / 15 % 5];
  if (trial % 5 == 2) s.opacity = static_cast<T>(kAlphaMin) * random(0.99, 1.01);
  return s;
}

template <typename T>
void Check() {
  int n_moved = 0, n_compared = 0, farthest = 0;
  double worst_exponent = 0;
  const auto compare = [&](int got, int want) {
    n_moved += got != want;
    farthest = std::max(farthest, std::abs(got - want));
    ++n_compared;
  };
  constexpr int kLanes = Pack<T>::kLanes;
  for (int trial = 0; trial < 20000; trial += kLanes) {
    Splat<T> splats[kLanes];
    Splat<Pack<T>> pack{};
    for (int k = 0; k < kLanes; ++k) {
      const Splat<T> s = splats[k] = RandomSplat<T>(trial + k);
      pack.center.x.v[k] = s.center.x;
      pack.center.y.v[k] = s.center.y;
      pack.conic.xx.v[k] = s.conic.xx;
      pack.conic.xy.v[k] = s.conic.xy;
      pack.conic.yy.v[k] = s.conic.yy;
      pack.opacity.v[k] = s.opacity;
    }
    for (const bool square : {false, true}) {
      const auto footprint_of = [&](const auto& s, auto radius) {
        return square ? square_footprint(s.center, radius)
                      : ellipse_footprint(s.center, s.conic, s.opacity);
      };
      const Footprint<Pack<T>> got = footprint_of(pack, PackInt<T>(trial % 60));
      const auto rows = tile_rows(got, kTiles);
      for (int k = 0; k < kLanes; ++k) {
        const Footprint<T> want = footprint_of(splats[k], trial % 60);
        const Range tiles = tile_rows(want, kTiles);
        compare(rows.begin[k], tiles.begin);
        compare(rows.end[k], tiles.end);
        const int row = tiles.begin + (tiles.end - tiles.begin) / 2;
        const auto columns = tile_columns(got, PackInt<T>(row), kTiles);
        const Range of_row = tile_columns(want, row, kTiles);
        compare(columns.begin[k], of_row.begin);
        compare(columns.end[k], of_row.end);
      }
    }
    const Exponent<Pack<T>> exponent = make_exponent(pack.conic, pack.opacity);
    for (int k = 0; k < kLanes; ++k) {
      const T want = make_exponent(splats[k].conic, splats[k].opacity).log2_opacity;
      worst_exponent =
          test::Worse(worst_exponent, test::Ulps(exponent.log2_opacity[k], want, want));
    }
  }
  const std::string name = "tiles of packs, " + test::Name<T>();
  // A logarithm that rounds differently may move an edge that lies on the border of a cell.
  test::Report(name + ": share of edges that moved", double(n_moved) / n_compared, 1e-4);
  test::Report(name + ": farthest move, cells", farthest, 1);
  test::Report(name + ": log2 of the opacity, in eps", worst_exponent, 2.5);
}

}  // namespace

int main() {
  if (!test::MachineHasIsa()) return test::kSkipped;
  Check<float>();
  Check<double>();
  return test::Finish();
}
