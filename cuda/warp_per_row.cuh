#pragma once
// A warp, or an aligned group of its lanes, per row, which stays in registers; lanes exchange one
// summary by shuffles.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

// A warp holds 32 / lanes consecutive rows. Rows beyond the last are padding: all lanes of a warp
// walk the same way and take part in each shuffle.
template <typename Shape, bool is_aligned, typename Task>
__global__ void __launch_bounds__(
    Shape::kThreads, kBlocksPerMultiprocessor<Shape, is_aligned, Task>)
    warp_per_row_kernel(const __grid_constant__ Task task, int64_t rows, int length) {
  constexpr int kLanes = Shape::kThreadsPerRow;
  constexpr int kRowsPerBlock = Shape::kThreads / kLanes;
  LaneTeam<kLanes> team;
  for (int64_t base = simt::block_index() * kRowsPerBlock; base < rows;
       base += simt::block_count() * kRowsPerBlock) {
    const int64_t mine = base + simt::thread_index() / kLanes;
    const bool is_row = mine < rows;
    const int64_t row = is_row ? mine : base;
    map_resident_part<Shape::kPacks, is_aligned, true>(
        task, row, 0, is_row ? length : 0, team, [&](const auto& op, const auto& summary) {
          if (is_row && team.thread() == 0) task.per_row.finish(row, op, summary);
          return summary;
        });
  }
}

template <typename Shape, bool is_aligned, typename Task>
cudaError_t launch_warp_per_row(
    const Task& task, int64_t rows, int64_t length, cudaStream_t stream) {
  constexpr int kThreads = Shape::kThreads;
  constexpr int kRowsPerBlock = kThreads / Shape::kThreadsPerRow;
  const int64_t blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  return launch_blocks<warp_per_row_kernel<Shape, is_aligned, Task>>(
      {.blocks = blocks, .threads_per_block = kThreads},
      stream,
      task,
      rows,
      static_cast<int>(length));
}

}  // namespace softmax_ext::cuda
