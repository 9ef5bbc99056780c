// Handles calls for the weights of a view from XLA.

#ifdef JGD_BACKEND_CUDA
#include "cuda/weights.h"
#else
#include "cpu/weights.h"
#endif

#include "ffi/binder.h"
#include "ffi/splats.h"

namespace ffi = xla::ffi;

namespace jgd {

struct WeightsAttributes {
  int64_t width;
  int64_t height;
  bool three_sigma;
  int64_t capacity;
  int64_t k;
};

namespace {

ffi::Error forward(backend::XlaContext xla_context, WeightsAttributes attributes,
                   ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  return handle("jgd_weights_fwd", inputs, outputs, [&](Binder& bind, auto zero) {
    using T = decltype(zero);
    const SplatOperands splats(bind);
    const Operand order = bind.operand("order", 2);
    WeightsForward<T> args;
    args.in.splats =
        bind_splats<T>(bind, splats, attributes.width, attributes.height, attributes.three_sigma);
    const int64_t n_cameras = args.in.splats.n_cameras;
    const int64_t n = args.in.splats.n;
    const int64_t h = args.in.splats.height;
    const int64_t w = args.in.splats.width;
    args.in.order = bind.in<int32_t>(order, {n_cameras, n});
    args.in.capacity = attributes.capacity;
    args.k = attributes.k;
    bind.require(args.in.capacity >= 0, "capacity must not be negative");
    bind.require(args.k >= 0, "k must not be negative");
    args.ids = bind.out<int32_t>("ids", {n_cameras, h, w, args.k}, /*optional=*/true);
    args.weights = bind.out<T>("weights", {n_cameras, h, w, args.k}, /*optional=*/true);
    args.largest = bind.out<T>("largest", {n_cameras, n}, /*optional=*/true);
    args.total = bind.out<T>("total", {n_cameras, n}, /*optional=*/true);
    args.n_pixels = bind.out<int32_t>("n_pixels", {n_cameras, n}, /*optional=*/true);
    bind.require(!args.ids.data == !args.weights.data, "needs both or neither of ids and weights");
    bind.require(!args.largest.data == !args.total.data && !args.total.data == !args.n_pixels.data,
                 "needs all or none of largest, total and n_pixels");
    args.workspace = bind.workspace();
    if (!bind.ok()) return bind.error();
    backend::Context context{xla_context};
    backend::weights_forward(context, args);
    return backend::finish(context);
  });
}

}  // namespace
}  // namespace jgd

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(jgd::WeightsAttributes, ffi::StructMember<int64_t>("width"),
                                      ffi::StructMember<int64_t>("height"),
                                      ffi::StructMember<bool>("three_sigma"),
                                      ffi::StructMember<int64_t>("capacity"),
                                      ffi::StructMember<int64_t>("k"));

JGD_DEFINE_HANDLER(jgd_weights_fwd, jgd::forward, jgd::handler_binding<jgd::WeightsAttributes>());
