#pragma once
// A block per row of any length, tile by tile, in two passes: the first makes the summary, the
// second reads the row again, from the L2 cache if it is still there. An operator without a map
// needs the first pass alone.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/tiles.cuh"

namespace softmax_ext::cuda {

template <typename Shape, bool is_aligned, typename Task>
__global__ void __launch_bounds__(
    Shape::kThreads, kBlocksPerMultiprocessor<Shape, is_aligned, Task, true>)
    reread_row_kernel(const __grid_constant__ Task task, int64_t rows, int64_t length) {
  using Tiles = Tiles<Shape, is_aligned, Task>;
  typename Tiles::Team team;
  for (int64_t row = simt::block_index(); row < rows; row += simt::block_count()) {
    const RowPlace<Task> place(task, row);
    const auto op = task.per_row.operator_of(row);
    auto summary = op.empty();
    if constexpr (Task::kReduces) {
      MergeTiles tiles(op);
      SOFTMAX_EXT_NO_UNROLL
      for (int64_t tile = 0; tile < Tiles::count(length); ++tile) {
        const auto of_tile = Tiles::summarize(place, op, tile, length, team);
        if (tiles.is_mine(tile)) tiles.add(of_tile);
      }
      summary = tiles.of_row();
      if (team.thread() == 0) task.per_row.finish(row, op, summary);
    }
    if constexpr (Task::kMaps) SOFTMAX_EXT_NO_UNROLL
    for (int64_t tile = 0; tile < Tiles::count(length); ++tile)
      Tiles::map(task, row, place, op, summary, tile, length, team);
  }
}

template <typename Shape, bool is_aligned, typename Task>
cudaError_t launch_reread_row(const Task& task, int64_t rows, int64_t length, cudaStream_t stream) {
  return launch_blocks<reread_row_kernel<Shape, is_aligned, Task>>(
      {.blocks = rows, .threads_per_block = Shape::kThreads}, stream, task, rows, length);
}

}  // namespace softmax_ext::cuda
