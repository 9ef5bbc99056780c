// Binds the buffers of a call to the arrays of a stage, and checks shapes and dtypes.
//
// jax_gsplat_depth/_check.py has seen the arguments before, with better messages; this is the
// second line, which keeps a wrong call from touching memory.
#pragma once

#include <cstdint>
#include <exception>
#include <initializer_list>
#include <limits>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "ffi/backend.h"
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

// An input of an op, before its dtype and shape are checked.
struct Operand {
  const char* name;
  int rank;  // without leading axes
  xla::ffi::AnyBuffer buffer;

  // The size of axis `axis` behind the leading axes.
  int64_t core_dim(int axis) const {
    const auto dims = buffer.dimensions();
    const int64_t i = static_cast<int64_t>(dims.size()) - rank + axis;
    return i >= 0 && i < static_cast<int64_t>(dims.size()) ? dims[i] : 0;
  }
};

// Binds the buffers of one call, in the order of the op: first operand() for every input, because
// they decide together which leading axes there are; then in() and out(). An op states its operands
// and results nowhere else. The caller asks once, when everything is bound, whether there was an
// error; the first one is reported.
class Binder {
 public:
  Binder(const char* op, const xla::ffi::RemainingArgs& inputs,
         const xla::ffi::RemainingRets& outputs)
      : op_(op), inputs_(inputs), outputs_(outputs) {}

  // The next input, which has `rank` axes behind the leading ones.
  Operand operand(const char* name, int rank) {
    const auto next = inputs_.get<xla::ffi::AnyBuffer>(n_operands_++);
    if (!next.has_value()) {
      fail("wrong number of operands");
      return {name, rank, xla::ffi::AnyBuffer(&kNoBuffer)};
    }
    const Operand operand{name, rank, *next};
    add_leading_axes(operand);
    return operand;
  }

  const BatchShape& batch() const { return batch_; }

  // An input of shape [batch..., shape...]. An optional one may be empty and is absent then.
  template <typename T>
  Batched<const T> in(const Operand& operand, std::initializer_list<int64_t> shape,
                      bool optional = false) {
    require(n_operands_ == inputs_.size(), "wrong number of operands");
    return bind<const T>(operand.name, operand.buffer, shape, optional, /*is_output=*/false);
  }

  // The next result, likewise.
  template <typename T>
  Batched<T> out(const char* name, std::initializer_list<int64_t> shape, bool optional = false) {
    auto next = outputs_.get<xla::ffi::AnyBuffer>(n_results_++);
    if (!next.has_value()) {
      fail("wrong number of results");
      return {};
    }
    return bind<T>(name, **next, shape, optional, /*is_output=*/true);
  }

  // The last result of every op: scratch memory without leading axes; on the CPU of size 0.
  Workspace workspace() {
    auto next = outputs_.get<xla::ffi::AnyBuffer>(n_results_++);
    if (!next.has_value() || n_results_ != outputs_.size()) {
      fail("wrong number of results");
      return {};
    }
    const xla::ffi::AnyBuffer& buffer = **next;
    if (buffer.element_type() != xla::ffi::U8 || buffer.dimensions().size() != 1) {
      fail("the workspace must be bytes");
      return {};
    }
    return {buffer.untyped_data(), static_cast<int64_t>(buffer.element_count())};
  }

  void require(bool condition, const char* message) {
    if (!condition) fail(message);
  }

  bool ok() const { return error_.empty(); }
  xla::ffi::Error error() const { return xla::ffi::Error::InvalidArgument(op_ + ": " + error_); }

 private:
  static constexpr XLA_FFI_Buffer kNoBuffer{};

  void fail(const std::string& message) {
    if (error_.empty()) error_ = message;
  }

  void add_leading_axes(const Operand& operand) {
    if (!ok()) return;
    const auto dims = operand.buffer.dimensions();
    const int n_axes = static_cast<int>(dims.size()) - operand.rank;
    if (n_axes < 0) return fail("an operand has too few axes");
    if (n_axes > kMaxBatchAxes) return fail("more than 8 nested vmap axes");
    if (n_operands_ == 1) {
      batch_.n_axes = n_axes;
      for (int i = 0; i < n_axes; ++i) batch_.size[i] = dims[i];
    }
    if (n_axes != batch_.n_axes) return fail("operands disagree in the number of leading axes");
    for (int i = 0; i < n_axes; ++i) {
      if (batch_.size[i] == 1) batch_.size[i] = dims[i];
      if (dims[i] != 1 && dims[i] != batch_.size[i]) fail("leading axes disagree");
    }
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
  const xla::ffi::RemainingArgs& inputs_;
  const xla::ffi::RemainingRets& outputs_;
  size_t n_operands_ = 0;
  size_t n_results_ = 0;
};

// What XLA passes to the handlers: the context of the backend, the attributes, the buffers.
template <typename Attributes>
auto handler_binding() {
  return xla::ffi::Ffi::Bind()
      .Ctx<backend::BindContext>()
      .Attrs<Attributes>()
      .RemainingArgs()
      .RemainingRets();
}

inline xla::ffi::Error failure(const char* op, const std::exception& error, bool out_of_memory) {
  std::string message = "out of memory";  // short enough to be held without an allocation
  try {
    message = std::string(op) + ": " + error.what();
  } catch (const std::bad_alloc&) {
    out_of_memory = true;  // then without the details
  }
  const auto code =
      out_of_memory ? xla::ffi::ErrorCode::kResourceExhausted : xla::ffi::ErrorCode::kInternal;
  return xla::ffi::Error(code, std::move(message));
}

// Handles a call: body(bind, T()) for the floating-point type T of the first input. XLA is compiled
// without exceptions, so none may leave a handler.
template <typename Body>
xla::ffi::Error handle(const char* op, const xla::ffi::RemainingArgs& inputs,
                       const xla::ffi::RemainingRets& outputs, const Body& body) {
  try {
    Binder bind(op, inputs, outputs);
    const auto first = inputs.get<xla::ffi::AnyBuffer>(0);
    if (first.has_value() && first->element_type() == xla::ffi::F32) return body(bind, float());
    if (first.has_value() && first->element_type() == xla::ffi::F64) return body(bind, double());
    return xla::ffi::Error::InvalidArgument("only float32 and float64 are supported");
  } catch (const std::bad_alloc& error) {
    return failure(op, error, /*out_of_memory=*/true);
  } catch (const std::exception& error) {
    return failure(op, error, /*out_of_memory=*/false);
  }
}

// Ids of Gaussians and pixel coordinates are 32-bit integers.
inline bool fits_int32(int64_t n) { return n >= 0 && n <= std::numeric_limits<int32_t>::max(); }

// Keeps pixel coordinates and numbers of tiles from overflowing; as MAX_IMAGE_SIDE in _check.py.
inline bool is_image_side(int64_t n) { return n >= 1 && n <= (int64_t{1} << 20); }

inline constexpr const char* kBadSizes =
    "needs 1 or more cameras, width and height of 1 to 2^20 and fewer than 2^31 Gaussians";

}  // namespace jgd
