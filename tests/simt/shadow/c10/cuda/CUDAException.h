#pragma once
// Stands in for torch's.

#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#define C10_CUDA_CHECK(expression)                                                            \
  do {                                                                                        \
    const cudaError_t launch_error = (expression);                                            \
    TORCH_CHECK(launch_error == cudaSuccess, "CUDA error: ", static_cast<int>(launch_error)); \
  } while (false)
