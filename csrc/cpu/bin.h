// Declares stage 3 on the CPU.
#pragma once

#include "cpu/parallel.h"
#include "stages/bin.h"

namespace jgd::cpu {

template <typename T>
void bin_forward(ThreadPool& pool, const BinForward<T>& args);

}  // namespace jgd::cpu
