#pragma once
// A block per row of any length, tile by tile, in two passes: the first makes the summary, the
// second reads the row again, from the L2 cache if it is still there. An operator without a map
// needs the first pass alone.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

template <typename Shape, bool is_aligned, typename Task>
__global__ void __launch_bounds__(Shape::kThreads, kBlocksPerMultiprocessor<Shape::kThreads>)
    reread_row_kernel(const __grid_constant__ Task task, int64_t rows, int64_t length) {
  constexpr int kThreads = Shape::kThreads;
  constexpr int kPacks = Shape::kPacks;
  constexpr int kPack = Task::kPackElements;
  constexpr int kStep = kThreads * kPack;
  constexpr int64_t kTile = int64_t{kPacks} * kStep;
  MergeAcrossBlock<kThreads> merge_across_block;
  for (int64_t row = simt::block_index(); row < rows; row += simt::block_count()) {
    const RowPlace<Task> place(task, row);
    const auto op = task.per_row.operator_of(row);
    const int64_t first = simt::thread_index() * kPack;
    auto summary = op.empty();
    if constexpr (Task::kReduces) {
      MergeTiles tiles(op);
      for (int64_t tile = 0; tile * kTile < length; ++tile) {
        const auto packs =
            load_packs<kPacks, is_aligned>(place, tile * kTile + first, kStep, length);
        const auto of_tile = merge_across_block(op, op.summarize(packs, kPacks * kPack));
        if (tiles.is_mine(tile)) tiles.add(of_tile);
      }
      summary = tiles.of_row();
      if (simt::thread_index() == 0) task.per_row.finish(row, op, summary);
    }
    if constexpr (Task::kMaps) {
      const auto constants = task.per_row.constants(row, op, summary);
      const int shift = output_shift<is_aligned>(place, length);
      for (int64_t begin = -shift; begin < length; begin += kTile) {
        const auto held = load_packs<kPacks, is_aligned>(place, begin + first, kStep, length);
        store_mapped<kPacks, is_aligned>(
            task, place, op, constants, held, begin + first, kStep, length);
      }
    }
  }
}

template <typename Shape, bool is_aligned, typename Task>
cudaError_t launch_reread_row(const Task& task, int64_t rows, int64_t length, cudaStream_t stream) {
  return launch_up_to_one_wave<reread_row_kernel<Shape, is_aligned, Task>>(
      {.blocks = rows, .threads_per_block = Shape::kThreads}, stream, task, rows, length);
}

}  // namespace softmax_ext::cuda
