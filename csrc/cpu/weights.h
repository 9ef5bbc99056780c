// Declares the weights of a view on the CPU.
#pragma once

#include "cpu/parallel.h"
#include "stages/weights.h"

namespace jgd::cpu {

template <typename T>
void weights_forward(ThreadPool& pool, const WeightsForward<T>& args);

}  // namespace jgd::cpu
