#pragma once
// From a number of blocks to a launch.

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "cuda/simt.h"

namespace softmax_ext::cuda {

// How many blocks of a kernel the current device runs at once, asked once per kernel and device.
// Threads that ask at the same time store the same number.
template <auto kernel>
cudaError_t resident_blocks(int threads_per_block, int* blocks) {
  constexpr int kCachedDevices = 64;
  static std::atomic<int> cached[kCachedDevices];
  int device = 0;
  cudaError_t error = simt::current_device(&device);
  if (error != cudaSuccess) return error;
  const bool is_cacheable = device < kCachedDevices;
  *blocks = is_cacheable ? cached[device].load(std::memory_order_relaxed) : 0;
  if (*blocks != 0) return cudaSuccess;
  error = simt::resident_blocks(kernel, threads_per_block, device, blocks);
  if (error == cudaSuccess && is_cacheable)
    cached[device].store(*blocks, std::memory_order_relaxed);
  return error;
}

// Launches `kernel` with `wanted_blocks` blocks, or one full wave of blocks that take several
// shares each.
template <auto kernel, typename... Arguments>
cudaError_t launch_up_to_one_wave(
    int64_t wanted_blocks,
    int threads_per_block,
    cudaStream_t stream,
    const Arguments&... arguments) {
  int most_blocks = 0;
  const cudaError_t error = resident_blocks<kernel>(threads_per_block, &most_blocks);
  if (error != cudaSuccess) return error;
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(wanted_blocks, std::max(most_blocks, 1)));
  return simt::launch(
      kernel, blocks, static_cast<unsigned>(threads_per_block), stream, arguments...);
}

}  // namespace softmax_ext::cuda
