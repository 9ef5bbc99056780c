// Declares stage 2 on the CPU, in both directions.
#pragma once

#include "cpu/parallel.h"
#include "stages/shade.h"

namespace jgd::cpu {

template <typename T>
void shade_forward(ThreadPool& pool, const ShadeForward<T>& args);

template <typename T>
void shade_backward(ThreadPool& pool, const ShadeBackward<T>& args);

}  // namespace jgd::cpu
