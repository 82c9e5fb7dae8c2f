#pragma once
// A row too long for registers, in tiles of one size: each is a part that a block holds, summarizes,
// and later reads again for its map. Which block does what, and when, is the mapping's.

#include <algorithm>
#include <cstdint>

#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

// Index counts columns.
template <typename Shape, bool is_aligned, typename Task, typename Index = int64_t>
struct Tiles {
  using Team = BlockTeam<Shape::kThreads>;
  using Held = HeldPart<Shape::kPacks, is_aligned, Task>;
  static constexpr Index kColumns = Index{Shape::kThreads} * Shape::kPacks * Task::kPackElements;

  __host__ __device__ __forceinline__ static Index count(Index length) {
    return (length - 1) / kColumns + 1;
  }

  // An empty one from the end of the row on.
  __device__ __forceinline__ static Part<Index> part(
      const RowPlace<Task>& place, Index tile, Index length) {
    const Index begin = tile < count(length) ? tile * kColumns : length;
    const Index end = length - begin > kColumns ? begin + kColumns : length;
    return {begin, end, shift_of<is_aligned>(place)};
  }

  // What the terms of a tile want, which are measured from its own maximum.
  __device__ __forceinline__ static typename Task::Operator::Output rescale(
      const typename Task::Operator& op,
      const typename Task::Summary& of_tile,
      const typename Task::Summary& of_row) {
    if constexpr (Task::kMapsTerms)
      return rescale_of(op, of_tile.max, of_row.max);
    else
      return 1;
  }

  __device__ __forceinline__ static typename Task::Summary summarize(
      const RowPlace<Task>& place,
      const typename Task::Operator& op,
      Index tile,
      Index length,
      Team& team) {
    const auto of_tile = part(place, tile, length);
    Held held;
    held.load(place, of_tile, team);
    return held.summarize(op, of_tile, team);
  }

  __device__ __forceinline__ static void map(
      const Task& task,
      int64_t row,
      const RowPlace<Task>& place,
      const typename Task::Operator& op,
      const typename Task::Summary& summary,
      Index tile,
      Index length,
      Team& team) {
    const auto of_tile = part(place, tile, length);
    Held held;
    held.load(place, of_tile, team);
    // From the tile's maximum, as where a tile is held: so that a row has the same bits either way.
    held.make_terms_again(op, of_tile, team);
    typename Task::Operator::Output rescale = 1;
    if constexpr (Task::kMapsTerms) rescale = rescale_of(op, held.max, summary.max);
    held.map(task, row, place, op, summary, rescale, of_tile, team);
  }
};

}  // namespace softmax_ext::cuda
