#pragma once
// A cluster of 2 to 8 blocks per row; blocks read each other's summaries through distributed shared
// memory. From sm_90 on. Each block takes a tile of the row in turn and keeps the last of its tiles in
// registers. Others, which only rows have that are longer than the cluster holds, are read again:
// from the L2 cache, as so few rows are under way at a time.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/tiles.cuh"

namespace softmax_ext::cuda {

// `rereads`: whether rows have more tiles than a cluster has blocks.
template <typename Shape, bool is_aligned, bool rereads, typename Task>
__global__ void __launch_bounds__(
    Shape::kThreads, kBlocksPerMultiprocessor<Shape, is_aligned, Task, rereads>)
    cluster_per_row_kernel(const __grid_constant__ Task task, int64_t rows, int length) {
  using Summary = typename Task::Summary;
  using Tiles = Tiles<Shape, is_aligned, Task, int>;
  struct Exchange {
    Summary of_lane[2][simt::kWarpLanes];
  };
  Exchange& exchange = simt::shared<Exchange>();
  typename Tiles::Team team;
  const int rank = simt::cluster_rank();
  const int size = simt::cluster_size();
  const int lane = simt::thread_index() % simt::kWarpLanes;
  [[maybe_unused]] const int count = Tiles::count(length);
  int turn = 0;
  for (int64_t row = simt::block_index() / size; row < rows; row += simt::block_count() / size) {
    const RowPlace<Task> place(task, row);
    const auto op = task.per_row.operator_of(row);
    MergeTiles mine(op);
    typename Tiles::Held held;
    auto of_tile = op.empty();
    int tile = rank;
    if constexpr (rereads) {
      SOFTMAX_EXT_NO_UNROLL
      for (; tile + size < count; tile += size) {
        of_tile = Tiles::summarize(place, op, tile, length, team);
        if (mine.is_mine(tile)) mine.add(of_tile);
      }
    }
    // A block without a tile holds an empty one.
    const auto part = Tiles::part(place, tile, length);
    held.load(place, part, team);
    of_tile = held.summarize(op, part, team);
    if (mine.is_mine(tile)) mine.add(of_tile);
    // Tile t is in lane t % 32 of the block t % size, whose other lanes have nothing.
    if (simt::thread_index() < simt::kWarpLanes) exchange.of_lane[turn][lane] = mine.of_lane();
    simt::sync_cluster();
    MergeTiles all(op);
    all.add(simt::peer_shared(exchange, lane % size).of_lane[turn][lane]);
    turn ^= 1;
    const Summary summary = all.of_row();
    if (rank == 0 && team.thread() == 0) task.per_row.finish(row, op, summary);
    const auto rescale = Tiles::rescale(op, of_tile, summary);
    held.map(task, row, place, op, summary, rescale, part, team);
    if constexpr (rereads) {
      SOFTMAX_EXT_NO_UNROLL
      for (tile -= size; tile >= 0; tile -= size)
        Tiles::map(task, row, place, op, summary, tile, length, team);
    }
  }
  // No block may leave while a peer reads its shared memory.
  simt::sync_cluster();
}

template <typename Shape, bool is_aligned, bool rereads, typename Task>
cudaError_t launch_cluster_per_row(
    const Task& task, int64_t rows, int64_t length, int blocks_per_row, cudaStream_t stream) {
  return launch_blocks<cluster_per_row_kernel<Shape, is_aligned, rereads, Task>>(
      {.blocks = rows * blocks_per_row,
       .threads_per_block = Shape::kThreads,
       .blocks_per_cluster = blocks_per_row},
      stream,
      task,
      rows,
      static_cast<int>(length));
}

}  // namespace softmax_ext::cuda
