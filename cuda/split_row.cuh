#pragma once
// Few long rows, each split over many blocks: one launch summarizes tiles into a workspace, one
// merges the tiles of each row, one maps the tiles. The tiles and their merging are those of
// cluster_per_row and reread_row: how many rows there are changes no bit of a row.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

template <typename Shape, typename Task>
struct Tiles {
  static constexpr int kThreads = Shape::kThreads;
  static constexpr int kPacks = Shape::kPacks;
  static constexpr int kStep = kThreads * Task::kPackElements;
  static constexpr int64_t kColumns = int64_t{kPacks} * kStep;

  static constexpr int64_t count(int64_t length) { return (length + kColumns - 1) / kColumns; }

  // With a shift of the output the last columns may be those of one tile more.
  static constexpr int64_t count_shifted(int64_t length) {
    return count(length + Task::kPackElements - 1);
  }
};

template <typename Shape, bool is_aligned, typename Task>
__global__ void __launch_bounds__(Shape::kThreads, kBlocksPerMultiprocessor<Shape::kThreads>)
    summarize_tiles_kernel(
        const __grid_constant__ Task task,
        int64_t rows,
        int64_t length,
        typename Task::Summary* of_tiles) {
  using Tiles = Tiles<Shape, Task>;
  constexpr int kPack = Task::kPackElements;
  MergeAcrossBlock<Tiles::kThreads> merge_across_block;
  const int64_t tiles = Tiles::count(length);
  for (int64_t i = simt::block_index(); i < rows * tiles; i += simt::block_count()) {
    const int64_t row = i / tiles;
    const RowPlace<Task> place(task, row);
    const auto op = task.per_row.operator_of(row);
    const int64_t first = i % tiles * Tiles::kColumns + simt::thread_index() * kPack;
    const auto packs = load_packs<Tiles::kPacks, is_aligned>(place, first, Tiles::kStep, length);
    const auto of_tile = merge_across_block(op, op.summarize(packs, Tiles::kPacks * kPack));
    if (simt::thread_index() == 0) of_tiles[i] = of_tile;
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
__global__ void __launch_bounds__(Shape::kThreads, kBlocksPerMultiprocessor<Shape::kThreads>)
    map_tiles_kernel(
        const __grid_constant__ Task task,
        int64_t rows,
        int64_t length,
        const typename Task::Summary* of_rows) {
  using Tiles = Tiles<Shape, Task>;
  const int64_t tiles = is_aligned ? Tiles::count(length) : Tiles::count_shifted(length);
  for (int64_t i = simt::block_index(); i < rows * tiles; i += simt::block_count()) {
    const int64_t row = i / tiles;
    const RowPlace<Task> place(task, row);
    const auto op = task.per_row.operator_of(row);
    auto summary = op.empty();
    if constexpr (Task::kReduces) summary = of_rows[row];
    const int64_t first = i % tiles * Tiles::kColumns + simt::thread_index() * Task::kPackElements -
                          output_shift<is_aligned>(place, length);
    const auto held = load_packs<Tiles::kPacks, is_aligned>(place, first, Tiles::kStep, length);
    store_mapped<Tiles::kPacks, is_aligned>(
        task,
        place,
        op,
        task.per_row.constants(row, op, summary),
        held,
        first,
        Tiles::kStep,
        length);
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
  using Tiles = Tiles<Shape, Task>;
  const LaunchExtent of_tiles{
      .blocks = rows * Tiles::count_shifted(length), .threads_per_block = Tiles::kThreads};
  Summary* of_rows = nullptr;
  if constexpr (Task::kReduces) {
    const int64_t tiles = Tiles::count(length);
    auto* const summaries =
        static_cast<Summary*>(workspace.allocate(rows * (tiles + 1) * sizeof(Summary)));
    if (summaries == nullptr) return cudaErrorMemoryAllocation;
    of_rows = summaries + rows * tiles;
    cudaError_t error = launch_up_to_one_wave<summarize_tiles_kernel<Shape, is_aligned, Task>>(
        of_tiles, stream, task, rows, length, summaries);
    if (error != cudaSuccess) return error;
    error = launch_up_to_one_wave<merge_tiles_kernel<Task>>(
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
    return launch_up_to_one_wave<map_tiles_kernel<Shape, is_aligned, Task>>(
        of_tiles, stream, task, rows, length, static_cast<const Summary*>(of_rows));
  return cudaSuccess;
}

}  // namespace softmax_ext::cuda
