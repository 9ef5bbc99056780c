// Declares stage 4 on the GPU, in both directions.
#pragma once

#include "cuda/context.h"
#include "stages/blend.h"

namespace jgd::cuda {

template <typename T>
void blend_forward(Context& context, const BlendForward<T>& args);

template <typename T>
void blend_backward(Context& context, const BlendBackward<T>& args);

}  // namespace jgd::cuda
