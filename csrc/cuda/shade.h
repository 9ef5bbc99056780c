// Declares stage 2 on the GPU, in both directions.
#pragma once

#include "cuda/context.h"
#include "stages/shade.h"

namespace jgd::cuda {

template <typename T>
void shade_forward(Context& context, const ShadeForward<T>& args);
template <typename T>
void shade_backward(Context& context, const ShadeBackward<T>& args);

}  // namespace jgd::cuda
