// Declares the depth order of the splats of one image, found on all threads.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "stages/image_splats.h"

namespace jgd::cpu {

// Writes a permutation of 0..n-1: by depth, ties by index, splats that are not drawn last.
template <typename T>
void depth_order(ThreadPool& pool, const ImageSplats<T>& splats, int64_t n, int32_t* order);

}  // namespace jgd::cpu
