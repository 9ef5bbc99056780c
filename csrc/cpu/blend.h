// Declares stage 4 on the CPU, in both directions.
#pragma once

#include "cpu/parallel.h"
#include "stages/blend.h"

namespace jgd::cpu {

template <typename T>
void blend_forward(ThreadPool& pool, const BlendForward<T>& args);

template <typename T>
void blend_backward(ThreadPool& pool, const BlendBackward<T>& args);

}  // namespace jgd::cpu
