// Tests that packs compute in each lane what a scalar does, and that loads and stores touch nothing
// but their records. Compiled for each instruction set, which JGD_ISA names.

#include "cpu/simd/pack.h"

#include <limits>
#include <vector>

#include "check.h"
#include "cpu/simd/pack_arrays.h"
#include "cpu/simd/shuffle.h"
#include "isa.h"

namespace {

using namespace jgd::cpu::JGD_ISA;  // NOLINT
using test::Expect;
using test::Name;
using test::Report;
using test::Uniform;

// Special values and numbers of all sizes.
template <typename T>
std::vector<T> Numbers() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> x = {0, T(-0.0), 1, -1, T(0.5), T(-0.5), T(1.5), T(-2.5), T(8388607.5)};
  for (const T big : {T(1 << 23), T(4503599627370495.5), Limits::max(), Limits::infinity()}) {
    x.insert(x.end(), {big, -big});
  }
  x.insert(x.end(), {Limits::quiet_NaN(), Limits::min(), -Limits::min(), Limits::denorm_min()});
  while (x.size() < 512) {
    const double size = std::exp(Uniform(-20, 20));
    x.push_back(static_cast<T>(Uniform(-size, size)));
  }
  return x;
}

template <typename T, typename F>
void ForEachPair(const F& check) {
  const std::vector<T> x = Numbers<T>();
  constexpr int kLanes = Pack<T>::kLanes;
  for (size_t shift = 0; shift < 64; ++shift) {
    for (size_t i = 0; i < x.size(); i += kLanes) {
      T a[kLanes], b[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        a[lane] = x[i + lane];
        b[lane] = x[(i + lane + shift) % x.size()];
      }
      const Pack<T> pack_a = load(a, 0, kLanes), pack_b = load(b, 0, kLanes);
      for (int lane = 0; lane < kLanes; ++lane) check(pack_a, pack_b, a[lane], b[lane], lane);
    }
  }
}

template <typename T>
bool Same(T a, T b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

template <typename T>
void CheckOperators() {
  bool arithmetic = true, comparisons = true, functions = true, masks = true;
  ForEachPair<T>([&](Pack<T> a, Pack<T> b, T x, T y, int k) {
    arithmetic = arithmetic && Same((a + b)[k], x + y) && Same((a - b)[k], x - y) &&
                 Same((a * b)[k], x * y) && Same((a / b)[k], x / y) && Same((-a)[k], -x);
    comparisons = comparisons && (a < b)[k] == (x < y) && (a > b)[k] == (x > y) &&
                  (a <= b)[k] == (x <= y) && (a >= b)[k] == (x >= y) && (a == b)[k] == (x == y) &&
                  (a != b)[k] == (x != y) && is_finite(a)[k] == std::isfinite(x);
    functions = functions && Same(abs(a)[k], std::fabs(x)) && Same(sqrt(a)[k], std::sqrt(x)) &&
                Same(floor(a)[k], std::floor(x)) && Same(ceil(a)[k], std::ceil(x)) &&
                Same(fmin(a, b)[k], std::fmin(x, y)) && Same(fmax(a, b)[k], std::fmax(x, y)) &&
                Same(jgd::min(a, b)[k], jgd::min(x, y)) && Same(jgd::max(a, b)[k], jgd::max(x, y));
    const PackMask<T> less = a < b;
    const PackMask<T> positive = a > Pack<T>(0);
    masks = masks && (less && positive)[k] == (x < y && x > 0) &&
            (less || positive)[k] == (x < y || x > 0) && (!less)[k] == !(x < y) &&
            Same(select(less, a, b)[k], x < y ? x : y);
  });
  Expect("pack, " + Name<T>() + ": arithmetic rounds like a scalar", arithmetic);
  Expect("pack, " + Name<T>() + ": comparisons", comparisons);
  Expect("pack, " + Name<T>() + ": functions", functions);
  Expect("pack, " + Name<T>() + ": masks and select", masks);
}

template <typename T>
void CheckMasksAndIntegers() {
  using Mask = PackMask<T>;
  bool ok = none_of(!Mask::all()) && !none_of(Mask::all());
  for (int n = 0; n <= Pack<T>::kLanes; ++n) {
    Pack<T> lane;
    for (int k = 0; k < Pack<T>::kLanes; ++k) lane.v[k] = static_cast<T>(k);
    const Mask first = lane < Pack<T>(n);
    for (int k = 0; k < Pack<T>::kLanes; ++k) ok = ok && first[k] == (k < n);
    ok = ok && none_of(first) == (n == 0) && all_of(first) == (n == Pack<T>::kLanes);
  }
  Expect("pack, " + Name<T>() + ": lanes of a mask", ok);
  ok = true;
  for (const int i : {0, 1, -1, 7, -12345, 8388608, -8388608}) {
    const PackInt<T> a(i), b(3);
    ok = ok && (a + b)[0] == i + 3 && (a - b)[0] == i - 3 && (a * b)[0] == i * 3 &&
         (a < b)[0] == (i < 3) && (a > b)[0] == (i > 3) && (a <= b)[0] == (i <= 3) &&
         (a >= b)[0] == (i >= 3) && select(a < b, a, b)[0] == std::min(i, 3) &&
         Pack<T>(a)[0] == static_cast<T>(i) && to_int(Pack<T>(a))[0] == i;
  }
  ok = ok && to_int(Pack<T>(2.75))[0] == 2 && to_int(Pack<T>(-2.75))[0] == -2;
  Expect("pack, " + Name<T>() + ": integers", ok);
}

// Computes a b + c where almost everything cancels; measures in units of the last place.
template <typename T>
void CheckFma() {
  double worst = 0;
  for (int trial = 0; trial < 10000; ++trial) {
    const T a = static_cast<T>(Uniform(-2, 2)), b = static_cast<T>(Uniform(-2, 2));
    const T c = trial % 2 ? -(a * b) : static_cast<T>(Uniform(-2, 2));
    const T want = std::fma(a, b, c);
    worst =
        test::Worse(worst, test::Ulps<T>(fma(Pack<T>(a), Pack<T>(b), Pack<T>(c))[0], want, want));
  }
  Report("pack, " + Name<T>() + ": fma, units in the last place", worst, 1);
}

template <typename T>
void CheckLogarithms() {
  double worst2 = 0, worst = 0;
  const double range = sizeof(T) == 4 ? 87 : 708;
  for (int trial = 0; trial < 200000; ++trial) {
    // Every other x is close to 1, where the logarithm has a zero.
    const double exponent = trial % 2 ? Uniform(-range, range) : Uniform(-0.5, 0.5);
    const T x = static_cast<T>(std::exp(exponent));
    const long double want = std::log2(static_cast<long double>(x));
    const long double natural = std::log(static_cast<long double>(x));
    if (want == 0) continue;
    const long double eps = std::numeric_limits<T>::epsilon();
    const auto error = [&](T got, long double value) {
      return static_cast<double>(std::fabs((got - value) / value) / eps);
    };
    worst2 = test::Worse(worst2, error(log2(Pack<T>(x))[0], want));
    worst = test::Worse(worst, error(log(Pack<T>(x))[0], natural));
  }
  Report("pack, " + Name<T>() + ": log2, relative error in eps", worst2, 2.5);
  Report("pack, " + Name<T>() + ": log, relative error in eps", worst, 2.5);
  const T infinity = std::numeric_limits<T>::infinity();
  Expect("pack, " + Name<T>() + ": logarithms of 1, infinity and NaN",
         log2(Pack<T>(1))[0] == 0 && log(Pack<T>(infinity))[0] == infinity &&
             std::isnan(log(Pack<T>(std::numeric_limits<T>::quiet_NaN()))[0]));
}

// The arrays have the exact size, so that the sanitizers see any access beyond them. The records
// before and behind the written ones must not change.
template <int kFields, typename T>
void CheckRecords() {
  bool ok = true;
  for (int n = 1; n <= Pack<T>::kLanes; ++n) {
    std::vector<T> from(kFields * n), to(kFields * (n + 2), T(-7));
    for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<T>(i + 1);
    Pack<T> fields[kFields];
    load_fields<kFields>(from.data(), n, fields);
    for (int k = 0; k < Pack<T>::kLanes; ++k) {
      for (int f = 0; f < kFields; ++f) {
        ok = ok && fields[f][k] == (k < n ? from[kFields * k + f] : T(0));
      }
    }
    store_fields<kFields>(to.data() + kFields, n, fields);
    for (int i = 0; i < kFields * (n + 2); ++i) {
      const bool inside = i >= kFields && i < kFields * (n + 1);
      ok = ok && to[i] == (inside ? from[i - kFields] : T(-7));
    }
  }
  Expect("pack, " + Name<T>() + ": loads and stores of " + std::to_string(kFields) + " fields", ok);
}

template <typename T>
void CheckIntegerArrays() {
  bool ok = true;
  for (int n = 1; n <= Pack<T>::kLanes; ++n) {
    std::vector<int32_t> from(n), to(n + 2, -7);
    for (int i = 0; i < n; ++i) from[i] = 1000 * i - 3;
    const PackInt<T> v = load_int<T>(from.data(), 0, n);
    for (int k = 0; k < Pack<T>::kLanes; ++k) ok = ok && v[k] == (k < n ? from[k] : 0);
    store_int(to.data(), 1, n, v);
    ok = ok && to[0] == -7 && to[n + 1] == -7 && std::equal(from.begin(), from.end(), &to[1]);
  }
  Expect("pack, " + Name<T>() + ": loads and stores of integers", ok);
}

template <typename T>
void CheckShuffles() {
  constexpr int kLanes = Pack<T>::kLanes;
  typename Pack<T>::V rows[kLanes], columns[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    for (int k = 0; k < kLanes; ++k) rows[i][k] = columns[i][k] = static_cast<T>(kLanes * i + k);
  }
  const auto sums = sum_each(rows);
  transpose(columns);
  bool transposed = true, summed = true;
  for (int i = 0; i < kLanes; ++i) {
    for (int k = 0; k < kLanes; ++k) transposed = transposed && columns[i][k] == rows[k][i];
    summed = summed && sums[i] == static_cast<T>(kLanes * kLanes * i + kLanes * (kLanes - 1) / 2);
  }
  Expect("vectors, " + Name<T>() + ": transposed square", transposed);
  Expect("vectors, " + Name<T>() + ": sum of each", summed);
}

template <typename T>
void Check() {
  CheckOperators<T>();
  CheckMasksAndIntegers<T>();
  CheckFma<T>();
  CheckLogarithms<T>();
  CheckRecords<1, T>();
  CheckRecords<2, T>();
  CheckRecords<3, T>();
  CheckRecords<4, T>();
  CheckRecords<6, T>();
  CheckIntegerArrays<T>();
  CheckShuffles<T>();
}

}  // namespace

int main() {
  if (!test::MachineHasIsa()) return test::kSkipped;
  Check<float>();
  Check<double>();
  return test::Finish();
}
