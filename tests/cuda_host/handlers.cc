// Defines the handlers that XLA calls in the tests: those of csrc/ffi with copies of all operands
// and results in guarded memory. Operands cannot be written; results hold garbage until they are
// written.

#include <atomic>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "guarded.h"
#include "machine.h"
#include "stages/workspace.h"
#include "xla/ffi/api/c_api.h"

namespace jgd::cuda::host {
namespace {

using Arrays = std::map<std::pair<const void*, int64_t>, std::unique_ptr<GuardedArray>>;
thread_local Arrays workspace_arrays;

int64_t size_of(const XLA_FFI_Buffer& buffer) {
  int64_t bytes = 8;
  if (buffer.dtype == XLA_FFI_DataType_U8) bytes = 1;
  if (buffer.dtype == XLA_FFI_DataType_F32 || buffer.dtype == XLA_FFI_DataType_S32) bytes = 4;
  for (int64_t i = 0; i < buffer.rank; ++i) bytes *= buffer.dims[i];
  return bytes;
}

XLA_FFI_Error* failure(const XLA_FFI_CallFrame* frame, const char* message) {
  XLA_FFI_Error_Create_Args args{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message,
                                 XLA_FFI_Error_Code_INTERNAL};
  return frame->api->XLA_FFI_Error_Create(&args);
}

// Copies of buffers with their descriptions.
struct Copies {
  std::vector<std::unique_ptr<GuardedArray>> arrays;
  std::vector<XLA_FFI_Buffer> buffers;
  std::vector<void*> pointers;

  Copies(int64_t n, void** originals) : buffers(n), pointers(n) {
    for (int64_t i = 0; i < n; ++i) {
      buffers[i] = *static_cast<const XLA_FFI_Buffer*>(originals[i]);
      arrays.push_back(std::make_unique<GuardedArray>(size_of(buffers[i])));
      buffers[i].data = arrays[i]->data();
      pointers[i] = &buffers[i];
    }
  }
};

std::atomic<uint64_t> n_calls{0};

XLA_FFI_Error* call(XLA_FFI_Error* (*handler)(XLA_FFI_CallFrame*), XLA_FFI_CallFrame* frame) {
  if (frame->args.size == 0) return handler(frame);  // XLA asks for the metadata of the handler
  ++n_calls;
  Copies args(frame->args.size, frame->args.args);
  Copies rets(frame->rets.size, frame->rets.rets);
  for (int64_t i = 0; i < frame->args.size; ++i) {
    const void* original = static_cast<XLA_FFI_Buffer*>(frame->args.args[i])->data;
    if (args.arrays[i]->size() == 0) continue;
    std::memcpy(args.arrays[i]->data(), original, args.arrays[i]->size());
    args.arrays[i]->make_read_only();
  }
  for (auto& array : rets.arrays) array->fill(GuardedArray::kGarbage);
  XLA_FFI_CallFrame inner = *frame;
  inner.args.args = args.pointers.data();
  inner.rets.rets = rets.pointers.data();
  XLA_FFI_Error* error = handler(&inner);
  bool intact = true;
  for (const auto& entry : workspace_arrays) intact &= entry.second->intact();
  workspace_arrays.clear();
  for (int64_t i = 0; i < frame->rets.size; ++i) {
    intact &= rets.arrays[i]->intact();
    void* original = static_cast<XLA_FFI_Buffer*>(frame->rets.rets[i])->data;
    if (rets.arrays[i]->size() == 0) continue;
    std::memcpy(original, rets.arrays[i]->data(), rets.arrays[i]->size());
  }
  if (error != nullptr || intact) return error;
  return failure(frame, "something was written in front of an array");
}

std::atomic<int> forced_garbage{-1};

// Sometimes NaN and -1, which kernels use as marks of their own; sometimes 0, which exposes code
// that relies on a mark that was never written.
int workspace_garbage() {
  const int forced = forced_garbage;
  if (forced >= 0) return forced;
  return random_bits("workspace") % 2 == 0 ? 0 : GuardedArray::kGarbage;
}

}  // namespace

void* workspace_array(const void* key, int64_t bytes) {
  auto& array = workspace_arrays[{key, bytes}];
  if (!array) {
    array = std::make_unique<GuardedArray>(bytes);
    array->fill(workspace_garbage());
  }
  return array->data();
}

}  // namespace jgd::cuda::host

// Sets the byte that workspace is filled with; -1 leaves it to the seed.
extern "C" void jgd_cuda_host_set_garbage(int byte) { jgd::cuda::host::forced_garbage = byte; }

// How many calls were made so far; a program compiled for the targets of the CPU makes none.
extern "C" uint64_t jgd_cuda_host_n_calls() { return jgd::cuda::host::n_calls; }

#define JGD_OP(name)                                                   \
  extern "C" XLA_FFI_Error* name(XLA_FFI_CallFrame* frame);            \
  extern "C" XLA_FFI_Error* emulated_##name(XLA_FFI_CallFrame* frame); \
  XLA_FFI_Error* emulated_##name(XLA_FFI_CallFrame* frame) {           \
    return jgd::cuda::host::call(name, frame);                         \
  }
#include "ffi/ops.inc"
#undef JGD_OP
