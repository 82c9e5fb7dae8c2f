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
__global__ void __launch_bounds__(Shape::kThreads, kBlocksPerMultiprocessor<Shape::kThreads>)
    warp_per_row_kernel(const __grid_constant__ Task task, int64_t rows, int length) {
  constexpr int kLanes = Shape::kThreadsPerRow;
  constexpr int kRowsPerBlock = Shape::kThreads / kLanes;
  const int group = simt::thread_index() / kLanes;
  const int lane = simt::thread_index() % kLanes;
  for (int64_t base = simt::block_index() * kRowsPerBlock; base < rows;
       base += simt::block_count() * kRowsPerBlock) {
    const bool is_row = base + group < rows;
    const int64_t row = is_row ? base + group : base;
    map_resident_row<kLanes, Shape::kPacks, is_aligned>(
        task, row, is_row ? length : 0, 0, lane, [&](const auto& op, auto mine) {
          const auto summary = merge_across_lanes<kLanes>(op, mine);
          if (is_row && lane == 0) task.per_row.finish(row, op, summary);
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
  return launch_up_to_one_wave<warp_per_row_kernel<Shape, is_aligned, Task>>(
      {.blocks = blocks, .threads_per_block = kThreads},
      stream,
      task,
      rows,
      static_cast<int>(length));
}

}  // namespace softmax_ext::cuda
