#pragma once
// From a task to the mapping that its rows take.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cuda/block_per_row.cuh"
#include "cuda/cluster_per_row.cuh"
#include "cuda/launch_policy.h"
#include "cuda/reread_row.cuh"
#include "cuda/slab.cuh"
#include "cuda/split_row.cuh"
#include "cuda/strided.cuh"
#include "cuda/warp_per_row.cuh"

namespace softmax_ext::cuda {

// Rows seen as outer × length × inner; inner is 1 where the elements of a row are neighbours.
struct RowsExtent {
  int64_t outer;
  int64_t length;
  int64_t inner;
};

// What a task has to do with the choice of its mapping.
template <typename Task>
inline constexpr LaunchConditions kConditions{
    .has_clusters = false,
    .keeps_rows = Task::kReduces&& Task::kMaps,
    .reduces = Task::kReduces,
    // Arithmetic in double takes as many again.
    .pack_words = Task::kInputs* Task::kPackElements* static_cast<int>(sizeof(typename Task::In)) /
                  4 * static_cast<int>(sizeof(typename Task::Operator::Output)) / 4,
    .row_count_splits = false};

template <typename Policy, bool is_aligned, typename Task>
cudaError_t launch_policy(
    const Task& task,
    int64_t rows,
    int64_t length,
    const Workspace& workspace,
    cudaStream_t stream) {
  constexpr Mapping kMapping = Policy::kValue.mapping;
  using Shape = typename Policy::Shape;
  if constexpr (kMapping == Mapping::warp_per_row)
    return launch_warp_per_row<Shape, is_aligned>(task, rows, length, stream);
  constexpr bool kFitsBlock =
      Shape::kThreads <= kMostThreads || fits_large_block(kConditions<Task>);
  if constexpr (kMapping == Mapping::block_per_row && kFitsBlock)
    return launch_block_per_row<Shape, is_aligned>(task, rows, length, stream);
  if constexpr (kMapping == Mapping::cluster_per_row && Task::kReduces && Task::kMaps)
    return launch_cluster_per_row<Shape, is_aligned, !holds_row(Policy::kValue)>(
        task, rows, length, Policy::kValue.blocks_per_row, stream);
  if constexpr (kMapping == Mapping::reread_row && Task::kReduces)
    return launch_reread_row<Shape, is_aligned>(task, rows, length, stream);
  if constexpr (kMapping == Mapping::split_row)
    return launch_split_row<Shape, is_aligned>(task, rows, length, workspace, stream);
  return cudaErrorInvalidValue;
}

template <typename Task>
cudaError_t launch_conditions(int64_t rows, LaunchConditions* conditions) {
  int device = 0;
  int multiprocessors = 0;
  *conditions = kConditions<Task>;
  cudaError_t error = simt::current_device(&device);
  if (error == cudaSuccess) error = simt::multiprocessors(device, &multiprocessors);
  if (error == cudaSuccess) error = simt::has_clusters(device, &conditions->has_clusters);
  conditions->row_count_splits = row_count_splits(rows, multiprocessors);
  return error;
}

// The one launch of every operator. outer, length and inner are at least 1.
template <typename Task>
cudaError_t launch_rows(
    const Task& task, const RowsExtent& extent, const Workspace& workspace, cudaStream_t stream) {
  const int64_t rows = extent.outer * extent.inner;
  const int64_t length = extent.length;
  if (extent.inner > 1) return launch_strided(task, extent.outer, length, extent.inner, stream);
  constexpr std::size_t kLargest = std::max(sizeof(typename Task::In), sizeof(typename Task::Out));
  if (fits_slab(length, kLargest, Task::kPackElements))
    return launch_slab(task, rows, length, stream);

  LaunchConditions conditions;
  const cudaError_t error = launch_conditions<Task>(rows, &conditions);
  if (error != cudaSuccess) return error;
  const int64_t packs = packs_of_row(length, Task::kPackElements);
  const std::size_t chosen = choose_policy(packs, conditions);
  const bool is_aligned = task.is_aligned(length);
  return with_policy<cudaError_t>(chosen, [&]<typename Policy>() {
    // The general kernels take any rows, to the same bits. For double they are all there is.
    if constexpr (kLargest < sizeof(double))
      if (is_aligned) return launch_policy<Policy, true>(task, rows, length, workspace, stream);
    return launch_policy<Policy, false>(task, rows, length, workspace, stream);
  });
}

}  // namespace softmax_ext::cuda
