// Describes the leading axes that `jax.vmap` puts in front of the operands of an op.
//
// Every operand has the same number of them, each of full size or, where it is not mapped, of size
// 1; an unmapped operand is read in place, never copied.
#pragma once

#include <cstdint>

#include "math/hd.h"

namespace jgd {

inline constexpr int kMaxBatchAxes = 8;

struct BatchShape {
  int n_axes = 0;
  int64_t size[kMaxBatchAxes] = {};

  JGD_HD int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < n_axes; ++i) n *= size[i];
    return n;
  }
};

// An operand with its stride in elements along each leading axis, 0 where the axis has size 1. A
// null `data` stands for an absent operand: an unused input, a cotangent that is known to be zero,
// or a gradient that is not wanted.
template <typename T>
struct Batched {
  T* data = nullptr;
  int64_t stride[kMaxBatchAxes] = {};

  JGD_HD T* at(const BatchShape& batch, int64_t index) const {
    if (data == nullptr) return nullptr;
    int64_t offset = 0;
    // A 64-bit division is long, and there is rarely more than one axis.
    JGD_NO_UNROLL
    for (int i = batch.n_axes - 1; i >= 0; --i) {
      offset += (index % batch.size[i]) * stride[i];
      index /= batch.size[i];
    }
    return data + offset;
  }
};

}  // namespace jgd
