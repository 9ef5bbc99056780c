// Defines the qualifiers that let one copy of the formulas serve the CPU loops and the CUDA
// kernels.
//
// Every function in math/ is marked JGD_HD, works on values, allocates nothing and uses no standard
// container, so it compiles unchanged on both sides. The <cmath> functions are called through
// std::, which nvcc overloads for device code.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define JGD_HD __host__ __device__
#else
#define JGD_HD
#endif

// Loops over register arrays must be unrolled on the device, because a run-time index would move
// the array to local memory. JGD_NO_UNROLL limits how many values are in flight, each in a
// register. The host compilers decide for themselves.
#ifdef __CUDA_ARCH__
#define JGD_UNROLL _Pragma("unroll")
#define JGD_NO_UNROLL _Pragma("unroll 1")
#else
#define JGD_UNROLL
#define JGD_NO_UNROLL
#endif
