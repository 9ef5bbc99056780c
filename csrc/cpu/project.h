// Declares stage 1 on the CPU, in both directions.
#pragma once

#include "cpu/parallel.h"
#include "stages/project.h"

namespace jgd::cpu {

template <typename T>
void project_forward(ThreadPool& pool, const ProjectForward<T>& args);

template <typename T>
void project_backward(ThreadPool& pool, const ProjectBackward<T>& args);

}  // namespace jgd::cpu
