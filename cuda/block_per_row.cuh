#pragma once
// A block of 2 to 32 warps per row, which stays in registers; warps exchange one summary through
// shared memory.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

template <typename Shape, bool is_aligned, typename Task>
__global__ void __launch_bounds__(
    Shape::kThreads, kBlocksPerMultiprocessor<Shape, is_aligned, Task>)
    block_per_row_kernel(const __grid_constant__ Task task, int64_t rows, int length) {
  BlockTeam<Shape::kThreads> team;
  for (int64_t row = simt::block_index(); row < rows; row += simt::block_count())
    map_resident_part<Shape::kPacks, is_aligned, true>(
        task, row, 0, length, team, [&](const auto& op, const auto& summary) {
          if (team.thread() == 0) task.per_row.finish(row, op, summary);
          return summary;
        });
}

template <typename Shape, bool is_aligned, typename Task>
cudaError_t launch_block_per_row(
    const Task& task, int64_t rows, int64_t length, cudaStream_t stream) {
  return launch_blocks<block_per_row_kernel<Shape, is_aligned, Task>>(
      {.blocks = rows, .threads_per_block = Shape::kThreads},
      stream,
      task,
      rows,
      static_cast<int>(length));
}

}  // namespace softmax_ext::cuda
