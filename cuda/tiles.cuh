#pragma once
// A row too long for registers, in tiles of one size: each is a part that a block holds, summarizes,
// and later reads again for its map. Which block does what, and when, is the mapping's.

#include <algorithm>
#include <cstdint>

#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

template <typename Shape, bool is_aligned, typename Task>
struct Tiles {
  using Team = BlockTeam<Shape::kThreads>;
  static constexpr int kPacks = Shape::kPacks;
  static constexpr int64_t kColumns = int64_t{Shape::kThreads} * kPacks * Task::kPackElements;

  __host__ __device__ __forceinline__ static int64_t count(int64_t length) {
    return (length + kColumns - 1) / kColumns;
  }

  __device__ __forceinline__ static Part<int64_t> part(
      const RowPlace<Task>& place, int64_t tile, int64_t length) {
    const int64_t begin = tile * kColumns;
    const int64_t end = begin + kColumns < length ? begin + kColumns : length;
    return {begin, end, shift_of<is_aligned>(place)};
  }

  __device__ __forceinline__ static typename Task::Summary summarize(
      const RowPlace<Task>& place,
      const typename Task::Operator& op,
      int64_t tile,
      int64_t length,
      Team& team) {
    const auto of_tile = part(place, tile, length);
    const auto held = load_part<Shape::kThreads, kPacks, is_aligned>(place, of_tile, team.thread());
    HeldTerms<Task, kHeldPacks<kPacks, is_aligned>> terms;
    return summarize_part(op, held, of_tile, team, terms);
  }

  __device__ __forceinline__ static void map(
      const Task& task,
      int64_t row,
      const RowPlace<Task>& place,
      const typename Task::Operator& op,
      const typename Task::Summary& summary,
      int64_t tile,
      int64_t length,
      Team& team) {
    const auto of_tile = part(place, tile, length);
    const auto held = load_part<Shape::kThreads, kPacks, is_aligned>(place, of_tile, team.thread());
    HeldTerms<Task, kHeldPacks<kPacks, is_aligned>> terms;
    typename Task::Operator::Output rescale = 1;
    if constexpr (Task::kMapsTerms) {
      // From the tile's maximum, as where a tile is held: so that a row has the same bits either way.
      const auto max = max_of_part(held, of_tile, team, terms);
      make_terms<Shape::kThreads>(op, held, of_tile, max, terms, [](auto, auto, int) {});
      rescale = rescale_of(op, max, summary.max);
    }
    map_part<kPacks, is_aligned>(
        task, row, place, op, summary, held, terms, rescale, of_tile, team);
  }
};

}  // namespace softmax_ext::cuda
