// Helps tests that are compiled once per instruction set: main skips them if the machine lacks it.
#pragma once

#include <cstdio>

#include "check.h"

namespace test {

inline constexpr int kSkipped = 77;  // SKIPPED of programs.py

inline bool MachineHasIsa() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

// The difference of two numbers in units of the rounding error of `size`; two NaNs do not differ.
template <typename T>
double Ulps(T got, T want, T size) {
  if (got == want || (std::isnan(got) && std::isnan(want))) return 0;
  const double scale = std::fabs(static_cast<double>(size)) * std::numeric_limits<T>::epsilon();
  return std::fabs(static_cast<double>(got) - static_cast<double>(want)) / scale;
}

template <typename T>
std::string Name() {
  return sizeof(T) == 4 ? "float" : "double";
}

}  // namespace test
