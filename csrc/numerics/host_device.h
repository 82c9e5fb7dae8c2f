#pragma once
// Portability of the numerics: g++ compiles them for the CPU, nvcc for both sides. Inlining is
// forced so that objects built for different instruction sets never share a copy that the linker
// picked.

#if defined(__CUDACC__)
#define SOFTMAX_EXT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SOFTMAX_EXT_HOST_DEVICE inline __attribute__((always_inline))
#endif

// A loop over registers must unroll on the device, or its array goes to local memory.
#if defined(__CUDA_ARCH__)
#define SOFTMAX_EXT_UNROLL _Pragma("unroll")
#define SOFTMAX_EXT_NO_UNROLL _Pragma("unroll 1")
#else
#define SOFTMAX_EXT_UNROLL
#define SOFTMAX_EXT_NO_UNROLL
#endif
