#pragma once
// A cluster of 2 to 8 blocks per row, each of which holds one tile of it in registers; blocks read
// each other's summary through distributed shared memory. From sm_90 on.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

template <typename Shape, bool is_aligned, typename Task>
__global__ void __launch_bounds__(
    Shape::kThreads, kBlocksPerMultiprocessor<Shape, is_aligned, Task>)
    cluster_per_row_kernel(const __grid_constant__ Task task, int64_t rows, int length) {
  using Summary = typename Task::Summary;
  constexpr int kTile = Shape::kThreads * Shape::kPacks * Task::kPackElements;
  struct Exchange {
    Summary of_tile[2];
  };
  Exchange& exchange = simt::shared<Exchange>();
  BlockTeam<Shape::kThreads> team;
  const int rank = simt::cluster_rank();
  const int size = simt::cluster_size();
  const int lane = simt::thread_index() % simt::kWarpLanes;
  const int begin = rank * kTile < length ? rank * kTile : length;
  const int end = begin + kTile < length ? begin + kTile : length;
  int turn = 0;
  for (int64_t row = simt::block_index() / size; row < rows; row += simt::block_count() / size) {
    map_resident_part<Shape::kPacks, is_aligned, false>(
        task, row, begin, end, team, [&](const auto& op, const auto& of_tile) {
          if (team.thread() == 0) exchange.of_tile[turn] = of_tile;
          simt::sync_cluster();
          MergeTiles tiles(op);
          if (lane < size) tiles.add(simt::peer_shared(exchange, lane).of_tile[turn]);
          turn ^= 1;
          const Summary summary = tiles.of_row();
          if (rank == 0 && team.thread() == 0) task.per_row.finish(row, op, summary);
          return summary;
        });
  }
  // No block may leave while a peer reads its shared memory.
  simt::sync_cluster();
}

template <typename Shape, bool is_aligned, typename Task>
cudaError_t launch_cluster_per_row(
    const Task& task, int64_t rows, int64_t length, int blocks_per_row, cudaStream_t stream) {
  return launch_blocks<cluster_per_row_kernel<Shape, is_aligned, Task>>(
      {.blocks = rows * blocks_per_row,
       .threads_per_block = Shape::kThreads,
       .blocks_per_cluster = blocks_per_row},
      stream,
      task,
      rows,
      static_cast<int>(length));
}

}  // namespace softmax_ext::cuda
