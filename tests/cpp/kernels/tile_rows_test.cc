// Tests the rows of a tile that a splat reaches (cpu/kernels/tile_rows.h): all rows where a pixel
// sees it, and hardly any other; and that the exponent along a row has the bits of math/blend.h.
// Compiled for each instruction set.

#include "cpu/kernels/tile_rows.h"

#include <limits>

#include "check.h"
#include "isa.h"
#include "math/blend.h"

namespace {

using namespace jgd;  // NOLINT
using namespace jgd::cpu::JGD_ISA;  // NOLINT
using jgd::cpu::Tile;
using jgd::cpu::TileSplat;
using test::Uniform;

template <typename T>
TileSplat<T> RandomSplat(int trial) {
  const auto random = [](double low, double high) { return static_cast<T>(Uniform(low, high)); };
  const T a = std::exp(random(-9, 2)), c = std::exp(random(-9, 2));
  // Up to a needle whose determinant is lost to rounding, and beyond.
  const T correlation = trial % 3 == 0 ? T(1) - std::exp(random(-40, 0)) : random(-1.1, 0.9);
  Sym2<T> conic{a, correlation * std::sqrt(a * c), c};
  if (trial % 11 == 1) conic.xx = T(0);
  if (trial % 11 == 2) conic.xx = -a;
  if (trial % 11 == 3) conic.xx = std::numeric_limits<T>::max();
  if (trial % 11 == 4) conic.xy = std::numeric_limits<T>::max();
  if (trial % 11 == 5) conic.yy = std::numeric_limits<T>::min();
  Vec2<T> center{random(-30, 60), random(-30, 60)};
  if (trial % 7 == 0) center.x = center.y = T(1e30);
  if (trial % 7 == 1) center = {T(8.5), T(8.5)};  // on a pixel
  const Exponent<T> e = make_exponent(conic, std::max(random(-0.1, 1), T(1e-3)));
  return {center, e, T(1), T(-0.5) / e.xx};
}

template <typename T>
void Check() {
  constexpr int kLanes = Lanes<T>::kLanes, kColumns = Lanes<T>::kColumns;
  int n_missed = 0, n_seen = 0, n_wrong_bits = 0, n_regular_seen = 0, n_regular_reached = 0;
  for (int trial = 0; trial < 40000; ++trial) {
    const TileSplat<T> s = RandomSplat<T>(trial);
    const bool regular = trial % 3 && trial % 7 && (trial % 11 == 0 || trial % 11 > 5);
    Tile<T> tile{};
    const PixelCenters<T> centers(tile);
    RowTerms<T> terms;
    uint32_t rows[kColumns];
    find_rows(s, centers, terms, rows);
    for (int column = 0; column < kColumns; ++column) {
      for (int row = 0; row < kTileSize; ++row) {
        const auto exponent = cpu::JGD_ISA::log2_alpha(
            s.exponent.xx, centers.x[column] - s.center.x, terms.along[row], terms.offset[row]);
        const uint32_t seen_lanes = bits(cpu::JGD_ISA::seen(s.exponent.log2_opacity, exponent));
        const bool reached = rows[column] >> row & 1;
        n_missed += seen_lanes != 0 && !reached;
        n_seen += seen_lanes != 0;
#if defined(__FMA__)
        for (int lane = 0; lane < kLanes; ++lane) {
          const T dx = centers.x[column][lane] - s.center.x;
          const T dy = T(row) + T(0.5) - s.center.y;
          const T want = jgd::log2_alpha(s.exponent, dx, dy), got = exponent[lane];
          n_wrong_bits += !(got == want || (got != got && want != want));
        }
#endif
        if (!regular) continue;
        n_regular_seen += seen_lanes != 0;
        n_regular_reached += reached;
      }
    }
  }
  const std::string name = ", " + test::Name<T>() + std::to_string(kLanes);
  test::Expect("no row with a pixel that sees the splat is left out" + name, n_missed == 0);
  test::Expect("such rows were there" + name, n_seen > 20000);
  test::Report("part of the rows visited for nothing" + name,
               1 - double(n_regular_seen) / n_regular_reached, 0.01);
  test::Expect("the exponent has the bits of math/blend.h" + name, n_wrong_bits == 0);
}

}  // namespace

int main() {
  if (!test::MachineHasIsa()) return test::kSkipped;
  Check<float>();
  Check<double>();
  return test::Finish();
}
