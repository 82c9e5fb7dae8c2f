#pragma once
// From a number of blocks to a launch: the only place that launches kernels.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "cuda/simt.h"

namespace softmax_ext::cuda {

// Memory of the device for intermediate results, valid until the launches that use it are done.
struct Workspace {
  void* (*allocate_bytes)(void* context, std::size_t bytes);
  void* context;

  void* allocate(std::size_t bytes) const { return allocate_bytes(context, bytes); }
};

// The second launch bound of kernels that hold a row. Without one ptxas aims at 64 registers in some
// instances and spills.
template <int threads_per_block>
inline constexpr int kBlocksPerMultiprocessor = threads_per_block <= 256 ? 2 : 1;

struct LaunchExtent {
  int64_t blocks;  // as many as there are shares of work
  int threads_per_block;
  int blocks_per_cluster = 1;
};

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

// Launches `kernel` with a block for each share, or with one full wave of blocks that take several
// shares each.
template <auto kernel, typename... Arguments>
cudaError_t launch_up_to_one_wave(
    const LaunchExtent& extent, cudaStream_t stream, const Arguments&... arguments) {
  int resident = 0;
  const cudaError_t error = resident_blocks<kernel>(extent.threads_per_block, &resident);
  if (error != cudaSuccess) return error;
  const int64_t cluster = extent.blocks_per_cluster;
  const int64_t wave = std::max<int64_t>(resident / cluster, 1) * cluster;
  const simt::LaunchShape shape{
      .blocks = static_cast<unsigned>(std::min(extent.blocks, wave)),
      .threads_per_block = static_cast<unsigned>(extent.threads_per_block),
      .blocks_per_cluster = static_cast<unsigned>(cluster),
      .stream = stream};
  return simt::launch(kernel, shape, arguments...);
}

}  // namespace softmax_ext::cuda
