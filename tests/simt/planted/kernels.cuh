#pragma once
// Sums of rows, in four ways, and a copy, each with bugs to choose from. With Bug::none they are
// right.

#include <cstdint>

#include "cub/block/block_reduce.cuh"
#include "cuda/simt.h"

namespace softmax_ext::simt::planted {

enum class Bug {
  none,
  row_past_the_end,
  tail_past_the_row,
  lanes_leave_a_shuffle,
  warp_skips_a_barrier,
  barriers_diverge,
  no_barrier_before_the_read,
  no_barrier_before_the_rewrite,
  two_writers,
  shared_overflow,
  requirement_violated,
  misaligned_pack,
  int_overflow,
  no_cluster_barrier,
  no_last_cluster_barrier,
  storage_used_again,
  result_of_another_thread,
  vector_store_to_shared,
};

inline constexpr int kWarps = 2;
inline constexpr int kThreads = kWarps * kWarpLanes;

__device__ __forceinline__ float sum_of_warp(float sum) {
  for (int offset = 1; offset < kWarpLanes; offset *= 2)
    sum += __builtin_bit_cast(float, shuffle_xor(__builtin_bit_cast(uint32_t, sum), offset));
  return sum;
}

// A block per row.
template <Bug bug>
__global__ void sum_rows(float* sums, const float* rows, int64_t row_count, int length) {
  require(length < (bug == Bug::requirement_violated ? 10 : 1000), "rows are too long");
  float(&partials)[kWarps] = shared<float[kWarps]>();
  const int lane = thread_index() % kWarpLanes;
  const int warp = thread_index() / kWarpLanes;
  const int64_t end = row_count + (bug == Bug::row_past_the_end);
  for (int64_t row = block_index(); row < end; row += block_count()) {
    const float* const source = rows + row * length;
    float sum = 0;
    for (int i = thread_index(); i < length + (bug == Bug::tail_past_the_row); i += kThreads)
      sum += source[i];
    if (bug != Bug::lanes_leave_a_shuffle || thread_index() < length) sum = sum_of_warp(sum);
    if (lane == 0) partials[warp + (bug == Bug::shared_overflow)] = sum;
    if (bug == Bug::barriers_diverge && warp == 1)
      sync_block();
    else if (
        bug != Bug::no_barrier_before_the_read && (bug != Bug::warp_skips_a_barrier || warp == 0))
      sync_block();
    if (thread_index() == 0 || (bug == Bug::two_writers && lane == 0))
      sums[row] = partials[0] + partials[1];
    if (bug != Bug::no_barrier_before_the_rewrite) sync_block();
  }
}

struct alignas(16) Pack {
  float elements[4];
};

// A thread per row, which is a pack.
template <Bug bug>
__global__ void sum_packs(float* sums, const float* rows, int64_t row_count) {
  if (thread_index() >= row_count) return;
  const float* const source = rows + thread_index() * 4 + (bug == Bug::misaligned_pack);
  const Pack pack = *reinterpret_cast<const Pack*>(source);
  sums[thread_index()] = pack.elements[0] + pack.elements[1] + pack.elements[2] + pack.elements[3];
}

// A block per row, whose first element of each lane counts.
template <Bug bug>
__global__ void sum_many_rows(float* sum, const uint16_t* rows, int length) {
  using Index = std::conditional_t<bug == Bug::int_overflow, int, int64_t>;
  const Index row = static_cast<Index>(block_index());
  const float total = sum_of_warp(rows[row * length + thread_index()]);
  if (row == block_count() - 1 && thread_index() == 0) *sum = total;
}

// A cluster of two blocks per row: each sums half of it, the first adds the halves.
template <Bug bug>
__global__ void sum_rows_in_halves(float* sums, const float* rows) {
  float& half = shared<float>();
  const float sum = sum_of_warp(rows[block_index() * kWarpLanes + thread_index()]);
  if (thread_index() == 0) half = sum;
  if (bug != Bug::no_cluster_barrier) sync_cluster();
  if (cluster_rank() == 0 && thread_index() == 0)
    sums[block_index() / 2] = half + peer_shared(half, 1);
  if (bug != Bug::no_last_cluster_barrier) sync_cluster();
}

// A block per row, of one element per thread: the part of each in the row's sum.
template <Bug bug>
__global__ void divide_by_sum(float* parts, const float* rows) {
  using Reduce = cub::BlockReduce<float, kThreads, cub::BLOCK_REDUCE_WARP_REDUCTIONS>;
  auto& storage = shared<Reduce::TempStorage>();
  float& total = shared<float>();
  const int64_t i = block_index() * kThreads + thread_index();
  const float sum = Reduce(storage).Sum(rows[i]);
  if (thread_index() == 0) total = sum;
  if (bug != Bug::storage_used_again) sync_block();
  const float count = Reduce(storage).Sum(1);
  if (thread_index() == 0) require(count == kThreads, "a thread is missing");
  sync_block();
  parts[i] = rows[i] / (bug == Bug::result_of_another_thread ? sum : total);
}

// A block per row, whose packs, one per thread, it writes in reverse.
template <Bug bug>
__global__ void reverse_packs(uint4* target, const uint4* rows) {
  uint4(&packs)[kThreads] = shared<uint4[kThreads]>();
  const int64_t row = block_index() * kThreads;
  const uint4 pack = rows[row + thread_index()];
  if (bug == Bug::vector_store_to_shared)
    store_vector(&packs[thread_index()], pack);
  else
    packs[thread_index()] = pack;
  sync_block();
  store_vector(&target[row + thread_index()], packs[kThreads - 1 - thread_index()]);
}

}  // namespace softmax_ext::simt::planted
