// Declares stage 1 on the GPU, in both directions.
#pragma once

#include "cuda/context.h"
#include "stages/project.h"

namespace jgd::cuda {

template <typename T>
void project_forward(Context& context, const ProjectForward<T>& args);
template <typename T>
void project_backward(Context& context, const ProjectBackward<T>& args);

}  // namespace jgd::cuda
