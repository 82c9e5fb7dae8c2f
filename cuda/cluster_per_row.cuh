#pragma once
// A cluster of 2 to 8 blocks per row, each of which holds one tile of it in registers; blocks read
// each other's summary through distributed shared memory. From sm_90 on.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

template <typename Shape, bool is_aligned, typename Task>
__global__ void __launch_bounds__(Shape::kThreads, kBlocksPerMultiprocessor<Shape::kThreads>)
    cluster_per_row_kernel(const __grid_constant__ Task task, int64_t rows, int length) {
  using Summary = typename Task::Summary;
  constexpr int kThreads = Shape::kThreads;
  constexpr int kPacks = Shape::kPacks;
  struct Exchange {
    Summary of_tile[2];
  };
  Exchange& exchange = simt::shared<Exchange>();
  MergeAcrossBlock<kThreads> merge_across_block;
  const int rank = simt::cluster_rank();
  const int size = simt::cluster_size();
  const int lane = simt::thread_index() % simt::kWarpLanes;
  int turn = 0;
  for (int64_t row = simt::block_index() / size; row < rows; row += simt::block_count() / size) {
    map_resident_row<kThreads, kPacks, is_aligned>(
        task,
        row,
        length,
        rank * kThreads * kPacks,
        simt::thread_index(),
        [&](const auto& op, auto mine) {
          const Summary of_tile = merge_across_block(op, mine);
          if (simt::thread_index() == 0) exchange.of_tile[turn] = of_tile;
          simt::sync_cluster();
          MergeTiles tiles(op);
          if (lane < size) tiles.add(simt::peer_shared(exchange, lane).of_tile[turn]);
          turn ^= 1;
          const Summary summary = tiles.of_row();
          if (rank == 0 && simt::thread_index() == 0) task.per_row.finish(row, op, summary);
          return summary;
        });
  }
  // No block may leave while a peer reads its shared memory.
  simt::sync_cluster();
}

template <typename Shape, bool is_aligned, typename Task>
cudaError_t launch_cluster_per_row(
    const Task& task, int64_t rows, int64_t length, int blocks_per_row, cudaStream_t stream) {
  return launch_up_to_one_wave<cluster_per_row_kernel<Shape, is_aligned, Task>>(
      {.blocks = rows * blocks_per_row,
       .threads_per_block = Shape::kThreads,
       .blocks_per_cluster = blocks_per_row},
      stream,
      task,
      rows,
      static_cast<int>(length));
}

}  // namespace softmax_ext::cuda
