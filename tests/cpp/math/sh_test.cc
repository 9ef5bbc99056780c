// Tests csrc/math/sh.h: spherical harmonics, also against their definition.

#include "math/sh.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "check.h"
#include "math/constants.h"
#include "math/vec.h"
#include "sh_color.h"

namespace {

using jgd::ShConvention;
using jgd::Vec3;
using test::CheckVjp;
using test::Expect;
using test::kTrials;
using test::RandomValues;
using test::Read;
using test::Report;
using test::Scalar;
using test::Worse;
using test::Write;

constexpr ShConvention k3dgs = ShConvention::k3dgs, kE3nn = ShConvention::kE3nn;
constexpr ShConvention kE3nnLegacy = ShConvention::kE3nnLegacy;

// Computes Y_l^m as constants.h defines it, without the sign (-1)^m; z is the polar axis.
double Harmonic(int l, int m, double x, double y, double z) {
  const int a = std::abs(m);
  double p = 1, p_lower = 0, factor = (2 * l + 1) / (4 * M_PI), c = 1, s = 0;
  for (int k = 1; k <= a; ++k) p *= 2 * k - 1;  // P_a^a; then upwards in the degree
  for (int k = a + 1; k <= l; ++k) {
    const double next = ((2 * k - 1) * z * p - (k + a - 1) * p_lower) / (k - a);
    p_lower = p;
    p = next;
  }
  for (int k = l - a + 1; k <= l + a; ++k) factor /= k;
  for (int k = 0; k < a; ++k) {
    const double next = x * c - y * s;
    s = x * s + y * c;
    c = next;
  }
  return std::sqrt(m == 0 ? factor : 2 * factor) * p * (m < 0 ? s : c);
}

Vec3<double> RandomDirection() {
  double d[3];
  do {
    RandomValues(d, 3, -1, 1);
  } while (jgd::max_abs(Read<Vec3<double>>(d)) < 0.3);
  return jgd::direction(Read<Vec3<double>>(d));
}

void CheckShBasis() {
  double worst_definition = 0, worst_e3nn = 0, worst_sh14 = 0, worst_legacy = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const Vec3<double> d = RandomDirection();
    double basis[25], permuted[25], legacy[25];
    jgd::sh_basis(4, d, k3dgs, basis);
    jgd::sh_basis(4, jgd::sh_axes(d, kE3nn), kE3nn, permuted);
    jgd::sh_basis(4, jgd::sh_axes(d, kE3nnLegacy), kE3nnLegacy, legacy);
    for (int l = 0; l <= 4; ++l) {
      for (int m = -l; m <= l; ++m) {
        const int i = l * l + l + m;
        const double sign = m % 2 ? -1 : 1;
        worst_definition =
            Worse(worst_definition, std::fabs(basis[i] - sign * Harmonic(l, m, d.x, d.y, d.z)));
        // e3nn: polar axis y, azimuth from z to x, no sign; l = 1 is (x, y, z). At (-x, y, -z).
        worst_e3nn = Worse(worst_e3nn, std::fabs(permuted[i] - Harmonic(l, m, -d.z, -d.x, d.y)));
      }
    }
    const double sh14 = jgd::kSh32 * d.y * (d.z * d.z - d.x * d.x);
    worst_sh14 = Worse(worst_sh14, std::fabs(permuted[14] - sh14));
    permuted[14] = jgd::kSh32 * d.z * (d.z * d.z - d.x * d.x);
    for (int i = 0; i < 25; ++i)
      worst_legacy = Worse(worst_legacy, std::fabs(permuted[i] - legacy[i]));
  }
  Report("sh_basis: equals the definition, degrees 0..4", worst_definition, 2e-15);
  Report("sh_basis: e3nn axes equal e3nn at (-x, y, -z)", worst_e3nn, 2e-15);
  Report("sh_basis: e3nn axes, base 14 is y (z^2 - x^2)", worst_sh14, 2e-15);
  Report("sh_basis: legacy e3nn, base 14 alone differs, z (z^2 - x^2)", worst_legacy, 2e-15);

  double one[25];
  const Vec3<double> d = jgd::direction(Vec3<double>{1, 2, 3});
  jgd::sh_basis(1, d, k3dgs, one);
  Report("sh_basis: degree 1 is (-y, z, -x)",
         std::fabs(one[1] + jgd::kSh1 * d.y) + std::fabs(one[2] - jgd::kSh1 * d.z) +
             std::fabs(one[3] + jgd::kSh1 * d.x),
         1e-15);

  // Gauss-Legendre in z times a uniform grid in the azimuth is exact for degree 8.
  double gram[25][25] = {};
  constexpr int kNodes = 8, kAzimuths = 18;
  for (int n = 0; n < kNodes; ++n) {
    double z = std::cos(M_PI * (n + 0.75) / (kNodes + 0.5)), slope = 1;
    for (int step = 0; step < 20; ++step) {
      double p = 1, p_lower = 0;
      for (int k = 1; k <= kNodes; ++k) {
        const double next = ((2 * k - 1) * z * p - (k - 1) * p_lower) / k;
        p_lower = p;
        p = next;
      }
      slope = kNodes * (z * p - p_lower) / (z * z - 1);
      z -= p / slope;
    }
    const double weight = 2 / ((1 - z * z) * slope * slope) * 2 * M_PI / kAzimuths;
    for (int a = 0; a < kAzimuths; ++a) {
      const double r = std::sqrt(1 - z * z), angle = 2 * M_PI * a / kAzimuths;
      double basis[25];
      jgd::sh_basis(4, Vec3<double>{r * std::cos(angle), r * std::sin(angle), z}, k3dgs, basis);
      for (int i = 0; i < 25; ++i) {
        for (int j = 0; j < 25; ++j) gram[i][j] += weight * basis[i] * basis[j];
      }
    }
  }
  double worst_gram = 0;
  for (int i = 0; i < 25; ++i) {
    for (int j = 0; j < 25; ++j) {
      worst_gram = Worse(worst_gram, std::fabs(gram[i][j] - (i == j)));
    }
  }
  Report("sh_basis: orthonormal on the sphere", worst_gram, 1e-13);
}

void CheckShColor() {
  for (int degree = 0; degree <= 4; ++degree) {
    const int n_bases = jgd::sh_bases(degree);
    for (const ShConvention convention : {k3dgs, kE3nn, kE3nnLegacy}) {
      const std::string of = ", degree " + std::to_string(degree) + ", convention " +
                             std::to_string(static_cast<int>(convention));
      CheckVjp(
          "sh_basis_vjp" + of, 3, n_bases, [](double* x) { Write(RandomDirection(), x); },
          [=](const auto* x, auto* y) {
            jgd::sh_basis(degree, Read<Vec3<Scalar<decltype(y)>>>(x), convention, y);
          },
          [=](const auto* x, const auto* v, auto* g) {
            using T = Scalar<decltype(g)>;
            Write(jgd::sh_basis_vjp(degree, Read<Vec3<T>>(x), convention, v), g);
          });
      CheckVjp(
          "sh_color_vjp" + of, 3 + 3 * n_bases, 3,
          [=](double* x) {
            // Some channels end below 0, none near it.
            Vec3<double> color;
            do {
              Write(RandomDirection(), x);
              RandomValues(x + 3, 3 * n_bases, -1, 1);
              RandomValues(x + 3, 3, -3, 3);
              color = {0.5, 0.5, 0.5};
              double basis[25];
              const Vec3<double> axes = jgd::sh_axes(Read<Vec3<double>>(x), convention);
              jgd::sh_basis(degree, axes, convention, basis);
              for (int b = 0; b < n_bases; ++b) {
                color += basis[b] * Read<Vec3<double>>(x + 3 + 3 * b);
              }
            } while (std::min({std::fabs(color.x), std::fabs(color.y), std::fabs(color.z)}) < 0.05);
            for (int i = 0; i < 3; ++i) x[i] *= 2.5;
          },
          [=](const auto* x, auto* y) {
            Write(test::ShColor(degree, x + 3, Read<Vec3<Scalar<decltype(y)>>>(x), convention), y);
          },
          [=](const auto* x, const auto* v, auto* g) {
            using T = Scalar<decltype(g)>;
            Vec3<T> v_offset;
            test::ShColorVjp(degree, x + 3, Read<Vec3<T>>(x), convention, Read<Vec3<T>>(v), g + 3,
                             v_offset);
            Write(v_offset, g);
          });
    }
  }

  float sh[75], v_sh[75];
  for (int i = 0; i < 75; ++i) sh[i] = 0.01f * static_cast<float>(i % 7);
  const auto color_at = [&](float scale) {
    return test::ShColor(4, sh, Vec3<float>{1 * scale, 2 * scale, -2 * scale}, k3dgs);
  };
  const Vec3<float> reference = color_at(1);
  Report("sh_color: float offsets of length 1e-30..1e30",
         std::max(jgd::max_abs(color_at(1e30f) - reference),
                  jgd::max_abs(color_at(1e-30f) - reference)),
         1e-6);
  Vec3<float> v_offset;
  const Vec3<float> zero{0, 0, 0}, ones{1, 1, 1};
  const bool zero_ok = jgd::is_finite(test::ShColor(4, sh, zero, k3dgs));
  test::ShColorVjp(4, sh, zero, k3dgs, ones, v_sh, v_offset);
  Expect("sh_color: zero offset is finite, no gradient",
         zero_ok && jgd::max_abs(v_offset) == 0.0f &&
             std::all_of(v_sh, v_sh + 75, [](float v) { return std::isfinite(v); }));
  sh[3] = NAN;
  sh[7] = INFINITY;
  const Vec3<float> bad = test::ShColor(4, sh, Vec3<float>{1, 2, 3}, kE3nn);
  test::ShColorVjp(4, sh, Vec3<float>{1, 2, 3}, kE3nn, ones, v_sh, v_offset);
  Expect("sh_color: a non-finite channel is 0 without gradient, others stay",
         bad.x == 0 && bad.y == 0 && bad.z > 0 && jgd::is_finite(v_offset) && v_sh[0] == 0 &&
             v_sh[1] == 0 && v_sh[2] > 0);
}

}  // namespace

int main() {
  CheckShBasis();
  CheckShColor();
  return test::Finish();
}
