// Declares stage 3 on the GPU.
#pragma once

#include "cuda/context.h"
#include "stages/bin.h"

namespace jgd::cuda {

template <typename T>
void bin_forward(Context& context, const BinForward<T>& args);

}  // namespace jgd::cuda
