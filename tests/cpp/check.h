// Provides the harness of the C++ tests: reports, flat access to value types, and the check of a
// vjp against finite differences and of its float version against double.
//
// The differences are taken of the same templates in long double with a stencil of order 6. Where
// long double has a mantissa of 64 bits or more their error is about 1e-14, so the bound is on the
// rounding of the vjp itself. programs.py says how a test is compiled; one of math/ alone:
//
//   g++ -std=c++17 -O1 -Icsrc -Itests/cpp tests/cpp/math/quat_test.cc -o quat_test && ./quat_test
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace test {

// Measured on x86-64: at most 1.7e-13 and 7e-6.
inline constexpr double kDifferenceBound = LDBL_MANT_DIG >= 64 ? 1e-12 : 1e-8;
inline constexpr double kFloatBound = 3e-5;
inline constexpr int kTrials = 300;

inline int n_passed = 0, n_failed = 0;

// Like std::max, but keeps a NaN.
inline double Worse(double a, double b) { return std::isnan(a) || a >= b ? a : b; }

inline void Report(const std::string& name, double worst, double bound) {
  const bool ok = worst <= bound;  // false for NaN
  ++(ok ? n_passed : n_failed);
  std::printf("%s %-58s worst %.2e bound %.1e\n", ok ? "ok  " : "FAIL", name.c_str(), worst, bound);
}

inline void Expect(const std::string& name, bool ok) {
  ++(ok ? n_passed : n_failed);
  std::printf("%s %s\n", ok ? "ok  " : "FAIL", name.c_str());
}

// Returns the exit status for main.
inline int Finish() {
  std::printf("%d passed, %d failed\n", n_passed, n_failed);
  return n_failed == 0 ? 0 : 1;
}

inline std::mt19937_64 generator(7);

inline double Uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(generator);
}

// All values are structs of scalars only, so they can be read from and written to flat arrays.
template <typename S, typename T>
S Read(const T* x) {
  static_assert(std::is_trivially_copyable<S>::value && sizeof(S) % sizeof(T) == 0, "flat");
  S s;
  std::memcpy(static_cast<void*>(&s), x, sizeof(S));
  return s;
}

template <typename S, typename T>
T* Write(const S& s, T* y) {
  static_assert(std::is_trivially_copyable<S>::value && sizeof(S) % sizeof(T) == 0, "flat");
  std::memcpy(y, &s, sizeof(S));
  return y + sizeof(S) / sizeof(T);
}

template <typename P>
using Scalar = std::decay_t<decltype(*std::declval<P>())>;

using Input = std::function<void(double*)>;

// Returns the worst difference of two gradients. Entries are scaled by the size of their input,
// which makes them comparable. A difference is relative to the entry plus `share` of the largest
// entry, or of `output`, the size of the differentiated function, if that is larger.
inline double GradientError(const std::vector<double>& x, const std::vector<double>& got,
                            const std::vector<double>& want, double share, double output) {
  const auto scaled = [&](const std::vector<double>& g, size_t i) {
    return g[i] * std::max(std::fabs(x[i]), 0.1);
  };
  double largest = output, worst = 0;
  for (size_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::fabs(scaled(want, i)));
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = std::fabs(scaled(got, i) - scaled(want, i));
    const double size = std::fabs(scaled(want, i)) + share * largest;
    worst = Worse(worst, error / size);
  }
  return worst;
}

// f(x, y) writes n_out values and vjp(x, v, g) writes n_in gradients. Both are generic in the
// scalar type.
template <typename F, typename V>
void CheckVjp(const std::string& name, int n_in, int n_out, const Input& make_input, F f, V vjp) {
  double worst = 0, worst_float = 0;
  std::vector<double> x(n_in), v(n_out), g(n_in), difference(n_in), g_float_d(n_in);
  std::vector<long double> x_long(n_in), y(n_out);
  std::vector<float> x_float(n_in), v_float(n_out), g_float(n_in);
  for (int trial = 0; trial < kTrials; ++trial) {
    make_input(x.data());
    for (int i = 0; i < n_in; ++i) x[i] = x_float[i] = static_cast<float>(x[i]);
    for (int j = 0; j < n_out; ++j) {
      // Even trials: one output alone, so that a small one cannot hide.
      v[j] = trial % 2 ? Uniform(-1, 1) : j == trial / 2 % n_out;
      v[j] = v_float[j] = static_cast<float>(v[j]);
    }
    std::copy(x.begin(), x.end(), x_long.begin());
    f(x_long.data(), y.data());
    double output = 1e-6;
    for (int j = 0; j < n_out; ++j) output += std::fabs(static_cast<double>(v[j] * y[j]));
    vjp(x.data(), v.data(), g.data());
    vjp(x_float.data(), v_float.data(), g_float.data());
    for (int i = 0; i < n_in; ++i) {
      const long double h = 2e-4L * std::max(std::fabs(x[i]), 0.1);
      const long double weights[3] = {45.0L / 60, -9.0L / 60, 1.0L / 60};
      long double sum = 0;
      std::copy(x.begin(), x.end(), x_long.begin());
      for (int k = -3; k <= 3; ++k) {
        if (k == 0) continue;
        x_long[i] = x[i] + k * h;
        f(x_long.data(), y.data());
        for (int j = 0; j < n_out; ++j) {
          sum += (k > 0 ? 1 : -1) * weights[std::abs(k) - 1] * v[j] * y[j];
        }
      }
      difference[i] = static_cast<double>(sum / h);
    }
    std::copy(g_float.begin(), g_float.end(), g_float_d.begin());
    worst = Worse(worst, GradientError(x, g, difference, 0.01, output));
    worst_float = Worse(worst_float, GradientError(x, g_float_d, g, 0.1, output));
  }
  Report(name, worst, kDifferenceBound);
  Report(name + ", float", worst_float, kFloatBound);
}

inline void RandomValues(double* x, int n, double low, double high) {
  for (int i = 0; i < n; ++i) x[i] = Uniform(low, high);
}

}  // namespace test
