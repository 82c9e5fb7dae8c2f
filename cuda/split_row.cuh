#pragma once
// Few long rows, each split over many blocks: one launch summarizes tiles into a workspace, one
// merges the tiles of each row, one maps the tiles. The tiles and their merging are those of
// cluster_per_row and reread_row: how many rows there are changes no bit of a row.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/tiles.cuh"

namespace softmax_ext::cuda {

template <typename Shape, bool is_aligned, typename Task>
__global__ void __launch_bounds__(
    Shape::kThreads, kBlocksPerMultiprocessor<Shape, is_aligned, Task, true>)
    summarize_tiles_kernel(
        const __grid_constant__ Task task,
        int64_t rows,
        int64_t length,
        typename Task::Summary* of_tiles) {
  using Tiles = Tiles<Shape, is_aligned, Task>;
  typename Tiles::Team team;
  const int64_t tiles = Tiles::count(length);
  for (int64_t i = simt::block_index(); i < rows * tiles; i += simt::block_count()) {
    const int64_t row = i / tiles;
    const RowPlace<Task> place(task, row);
    const auto op = task.per_row.operator_of(row);
    const auto of_tile = Tiles::summarize(place, op, i % tiles, length, team);
    if (team.thread() == 0) of_tiles[i] = of_tile;
  }
}

// One warp per row.
template <typename Task>
__global__ void __launch_bounds__(simt::kWarpLanes) merge_tiles_kernel(
    const __grid_constant__ Task task,
    int64_t rows,
    int64_t tiles,
    const typename Task::Summary* of_tiles,
    typename Task::Summary* of_rows) {
  for (int64_t row = simt::block_index(); row < rows; row += simt::block_count()) {
    const auto op = task.per_row.operator_of(row);
    MergeTiles merged(op);
    for (int64_t tile = simt::thread_index(); tile < tiles; tile += simt::kWarpLanes)
      merged.add(of_tiles[row * tiles + tile]);
    const auto summary = merged.of_row();
    if (simt::thread_index() != 0) continue;
    of_rows[row] = summary;
    task.per_row.finish(row, op, summary);
  }
}

template <typename Shape, bool is_aligned, typename Task>
__global__ void __launch_bounds__(
    Shape::kThreads, kBlocksPerMultiprocessor<Shape, is_aligned, Task, true>)
    map_tiles_kernel(
        const __grid_constant__ Task task,
        int64_t rows,
        int64_t length,
        const typename Task::Summary* of_rows) {
  using Tiles = Tiles<Shape, is_aligned, Task>;
  typename Tiles::Team team;
  const int64_t tiles = Tiles::count(length);
  for (int64_t i = simt::block_index(); i < rows * tiles; i += simt::block_count()) {
    const int64_t row = i / tiles;
    const RowPlace<Task> place(task, row);
    const auto op = task.per_row.operator_of(row);
    auto summary = op.empty();
    if constexpr (Task::kReduces) summary = of_rows[row];
    Tiles::map(task, row, place, op, summary, i % tiles, length, team);
  }
}

// The workspace holds a summary of each tile and of each row.
template <typename Shape, bool is_aligned, typename Task>
cudaError_t launch_split_row(
    const Task& task,
    int64_t rows,
    int64_t length,
    const Workspace& workspace,
    cudaStream_t stream) {
  using Summary = typename Task::Summary;
  using Tiles = Tiles<Shape, is_aligned, Task>;
  const LaunchExtent of_tiles{
      .blocks = rows * Tiles::count(length), .threads_per_block = Shape::kThreads};
  Summary* of_rows = nullptr;
  if constexpr (Task::kReduces) {
    const int64_t tiles = Tiles::count(length);
    auto* const summaries =
        static_cast<Summary*>(workspace.allocate(rows * (tiles + 1) * sizeof(Summary)));
    if (summaries == nullptr) return cudaErrorMemoryAllocation;
    of_rows = summaries + rows * tiles;
    cudaError_t error = launch_blocks<summarize_tiles_kernel<Shape, is_aligned, Task>>(
        of_tiles, stream, task, rows, length, summaries);
    if (error != cudaSuccess) return error;
    error = launch_blocks<merge_tiles_kernel<Task>>(
        {.blocks = rows, .threads_per_block = simt::kWarpLanes},
        stream,
        task,
        rows,
        tiles,
        static_cast<const Summary*>(summaries),
        of_rows);
    if (error != cudaSuccess) return error;
  }
  if constexpr (Task::kMaps)
    return launch_blocks<map_tiles_kernel<Shape, is_aligned, Task>>(
        of_tiles, stream, task, rows, length, static_cast<const Summary*>(of_rows));
  return cudaSuccess;
}

}  // namespace softmax_ext::cuda
