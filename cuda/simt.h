#pragma once
// Thin names over what the kernels use of CUDA: indices, lane exchange, launch. They use nothing
// else of it, so that a CPU executor needs a twin of this file only. Blocks and grids have one
// dimension.

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

namespace softmax_ext::simt {

inline constexpr int kWarpLanes = 32;

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int64_t block_index() { return blockIdx.x; }
__device__ __forceinline__ int64_t block_count() { return gridDim.x; }

// The word of the lane whose index differs by `offset` (xor). All lanes of the warp take part.
__device__ __forceinline__ uint32_t shuffle_xor(uint32_t word, int offset) {
  return __shfl_xor_sync(0xffffffffu, word, offset);
}

inline cudaError_t current_device(int* device) { return cudaGetDevice(device); }

// How many blocks of `kernel` the device runs at once.
template <typename... Parameters>
cudaError_t resident_blocks(
    void (*kernel)(Parameters...), int threads_per_block, int device, int* blocks) {
  int multiprocessors = 0;
  int per_multiprocessor = 0;
  cudaError_t error =
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &per_multiprocessor, kernel, threads_per_block, 0);
  *blocks = multiprocessors * per_multiprocessor;
  return error;
}

template <typename... Parameters>
cudaError_t launch(
    void (*kernel)(Parameters...),
    unsigned blocks,
    unsigned threads_per_block,
    cudaStream_t stream,
    Parameters... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads_per_block);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::move(arguments)...);
}

}  // namespace softmax_ext::simt
