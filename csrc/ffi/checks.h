// Shape and dtype checks of the handlers. jax_gsplat_depth/_check.py has seen the arguments before,
// with better messages; this is the second line that keeps a wrong call from touching memory.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <type_traits>

#include "stages/batch.h"
#include "stages/workspace.h"
#include "xla/ffi/api/ffi.h"

namespace jgd {

template <typename T>
constexpr xla::ffi::DataType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return xla::ffi::F32;
  if constexpr (std::is_same_v<T, double>) return xla::ffi::F64;
  if constexpr (std::is_same_v<T, int32_t>) return xla::ffi::S32;
}

// Binds the buffers of one call to the operands of a stage. Errors collect; the caller asks once,
// after everything is bound.
class Binder {
 public:
  // `batched` are all inputs with the rank each has without leading axes.
  struct Ranked {
    const xla::ffi::AnyBuffer& buffer;
    int rank;
  };
  Binder(const char* op, std::initializer_list<Ranked> batched) : op_(op) {
    for (const Ranked& operand : batched) {
      const auto dims = operand.buffer.dimensions();
      const int n_axes = static_cast<int>(dims.size()) - operand.rank;
      if (n_axes < 0 || n_axes > kMaxBatchAxes) {
        fail(n_axes < 0 ? "an operand has too few axes" : "more than 8 nested vmap axes");
        return;
      }
      if (&operand == batched.begin()) {
        batch_.n_axes = n_axes;
        for (int i = 0; i < n_axes; ++i) batch_.size[i] = dims[i];
      }
      if (n_axes != batch_.n_axes) {
        fail("operands disagree in the number of leading axes");
        return;
      }
      for (int i = 0; i < n_axes; ++i) {
        if (batch_.size[i] == 1) batch_.size[i] = dims[i];
        if (dims[i] != 1 && dims[i] != batch_.size[i]) fail("leading axes disagree");
      }
    }
  }

  const BatchShape& batch() const { return batch_; }

  // An input of shape [batch..., shape...]; `optional` ones may be empty and are absent then.
  template <typename T>
  Batched<const T> in(const char* name, const xla::ffi::AnyBuffer& buffer,
                      std::initializer_list<int64_t> shape, bool optional = false) {
    return bind<const T>(name, buffer, shape, optional, /*is_output=*/false);
  }

  template <typename T>
  Batched<T> out(const char* name, xla::ffi::Result<xla::ffi::AnyBuffer>& buffer,
                 std::initializer_list<int64_t> shape, bool optional = false) {
    return bind<T>(name, *buffer, shape, optional, /*is_output=*/true);
  }

  // The last result of every op: scratch memory without leading axes; the CPU's has size 0.
  Workspace workspace(xla::ffi::Result<xla::ffi::AnyBuffer>& buffer) {
    if (buffer->element_type() != xla::ffi::U8 || buffer->dimensions().size() != 1) {
      fail("the workspace must be bytes");
      return {};
    }
    return {buffer->untyped_data(), static_cast<int64_t>(buffer->element_count())};
  }

  void require(bool condition, const char* message) {
    if (!condition) fail(message);
  }

  bool ok() const { return error_.empty(); }
  xla::ffi::Error error() const { return xla::ffi::Error::InvalidArgument(op_ + ": " + error_); }

 private:
  void fail(const std::string& message) {
    if (error_.empty()) error_ = message;
  }

  template <typename T>
  Batched<T> bind(const char* name, const xla::ffi::AnyBuffer& buffer,
                  std::initializer_list<int64_t> shape, bool optional, bool is_output) {
    using Value = std::remove_const_t<T>;
    Batched<T> result;
    const auto dims = buffer.dimensions();
    const int rank = static_cast<int>(shape.size());
    if (optional && buffer.element_count() == 0) return result;
    if (buffer.element_type() != dtype_of<Value>()) {
      fail(std::string("wrong dtype of ") + name);
      return result;
    }
    bool same = static_cast<int>(dims.size()) == batch_.n_axes + rank;
    for (int i = 0; same && i < rank; ++i) {
      same = dims[batch_.n_axes + i] == shape.begin()[i];
    }
    int64_t stride = 1;
    for (int64_t size : shape) stride *= size;
    for (int i = batch_.n_axes - 1; same && i >= 0; --i) {
      same = dims[i] == batch_.size[i] || (dims[i] == 1 && !is_output);
      result.stride[i] = dims[i] == 1 ? 0 : stride;
      stride *= dims[i];
    }
    if (!same) {
      fail(std::string("wrong shape of ") + name);
      return result;
    }
    result.data = static_cast<T*>(buffer.untyped_data());
    return result;
  }

  std::string op_;
  std::string error_;
  BatchShape batch_;
};

// Size of axis `axis` without leading axes of a buffer with `rank` axes without them.
inline int64_t core_dim(const xla::ffi::AnyBuffer& buffer, int rank, int axis) {
  const auto dims = buffer.dimensions();
  const int64_t i = static_cast<int64_t>(dims.size()) - rank + axis;
  return i >= 0 && i < static_cast<int64_t>(dims.size()) ? dims[i] : 0;
}

// Calls body(T()) for the floating-point type of the buffer.
template <typename Body>
xla::ffi::Error dispatch_float(const xla::ffi::AnyBuffer& buffer, const Body& body) {
  switch (buffer.element_type()) {
    case xla::ffi::F32:
      return body(float());
    case xla::ffi::F64:
      return body(double());
    default:
      return xla::ffi::Error::InvalidArgument("only float32 and float64 are supported");
  }
}

// Ids of Gaussians and pixel coordinates are 32-bit integers.
inline bool fits_int32(int64_t n) { return n >= 0 && n <= std::numeric_limits<int32_t>::max(); }

// So that no pixel coordinate and no number of tiles overflows; as MAX_IMAGE_SIDE in _check.py.
inline bool is_image_side(int64_t n) { return n >= 1 && n <= (int64_t{1} << 20); }

inline constexpr const char* kBadSizes =
    "needs 1 or more cameras, width and height of 1 to 2^20 and fewer than 2^31 Gaussians";

}  // namespace jgd
