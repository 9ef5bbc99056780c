// Declares the weights of a view on the GPU.
#pragma once

#include "cuda/context.h"
#include "stages/weights.h"

namespace jgd::cuda {

template <typename T>
void weights_forward(Context& context, const WeightsForward<T>& args);

}  // namespace jgd::cuda
