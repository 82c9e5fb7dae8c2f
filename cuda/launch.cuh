#pragma once
// From a number of blocks to a launch: the only place that launches kernels.

#include <algorithm>
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

struct LaunchExtent {
  int64_t blocks;  // as many as there are shares of work
  int threads_per_block;
  int blocks_per_cluster = 1;
};

// Launches `kernel` with a block for each share of work, as far as a grid goes: beyond, blocks take
// several shares each. Blocks that leave make room for others sooner than a wave of persistent ones
// gets to its next shares.
template <auto kernel, typename... Arguments>
cudaError_t launch_blocks(
    const LaunchExtent& extent, cudaStream_t stream, const Arguments&... arguments) {
  const int64_t cluster = extent.blocks_per_cluster;
  const int64_t most = std::max<int64_t>(simt::largest_grid() / cluster, 1) * cluster;
  const simt::LaunchShape shape{
      .blocks = static_cast<unsigned>(std::min(extent.blocks, most)),
      .threads_per_block = static_cast<unsigned>(extent.threads_per_block),
      .blocks_per_cluster = static_cast<unsigned>(cluster),
      .stream = stream};
  return simt::launch(kernel, shape, arguments...);
}

}  // namespace softmax_ext::cuda
