#pragma once
// Which mapping of rows to threads a row takes: one table per pass, by the packs of 16 bytes in a
// row. Plain C++, tested without a GPU.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace softmax_ext::cuda {

// Forward passes hold one input in registers, backward passes two. Arithmetic in double takes more
// registers for itself, and its tables smaller blocks.
enum class Pass { forward, backward, forward_in_double, backward_in_double };

enum class Mapping {
  slab,             // cuda/slab.cuh
  warp_per_row,     // cuda/warp_per_row.cuh
  block_per_row,    // cuda/block_per_row.cuh
  cluster_per_row,  // cuda/cluster_per_row.cuh
  reread_row,       // cuda/reread_row.cuh
  split_row,        // cuda/split_row.cuh
};

struct LaunchPolicy {
  int64_t max_packs;  // of a row
  Mapping mapping;
  int threads_per_row;  // of one block
  int packs_per_thread;
  int blocks_per_row;
  int threads_per_block;
};

inline constexpr int64_t kAnyLength = INT64_MAX;

// Packs in a row <=, mapping, threads per row, packs per thread, blocks per row, threads per block.
// The rows for any length take tiles of the size that a block of a cluster has.
inline constexpr auto kForwardPolicies = std::to_array<LaunchPolicy>({
    {        16,    Mapping::warp_per_row,   8, 2, 1, 128}, // not yet measured
    {        32,    Mapping::warp_per_row,  32, 1, 1, 128}, // not yet measured
    {        64,    Mapping::warp_per_row,  32, 2, 1, 128}, // not yet measured
    {       128,    Mapping::warp_per_row,  32, 4, 1, 128}, // not yet measured
    {       256,   Mapping::block_per_row,  64, 4, 1,  64}, // not yet measured
    {       512,   Mapping::block_per_row, 128, 4, 1, 128}, // not yet measured
    {      1024,   Mapping::block_per_row, 256, 4, 1, 256}, // not yet measured
    {      2048,   Mapping::block_per_row, 512, 4, 1, 512}, // not yet measured
    {      4096, Mapping::cluster_per_row, 512, 4, 2, 512}, // not yet measured
    {      8192, Mapping::cluster_per_row, 512, 4, 4, 512}, // not yet measured
    {     16384, Mapping::cluster_per_row, 512, 4, 8, 512}, // not yet measured
    {kAnyLength,      Mapping::reread_row, 512, 4, 1, 512}, // not yet measured
    {kAnyLength,       Mapping::split_row, 512, 4, 1, 512}, // not yet measured
});

inline constexpr auto kBackwardPolicies = std::to_array<LaunchPolicy>({
    {         8,    Mapping::warp_per_row,   8, 1, 1, 128}, // not yet measured
    {        32,    Mapping::warp_per_row,  32, 1, 1, 128}, // not yet measured
    {        64,    Mapping::warp_per_row,  32, 2, 1, 128}, // not yet measured
    {       128,   Mapping::block_per_row,  64, 2, 1,  64}, // not yet measured
    {       256,   Mapping::block_per_row, 128, 2, 1, 128}, // not yet measured
    {       512,   Mapping::block_per_row, 256, 2, 1, 256}, // not yet measured
    {      1024,   Mapping::block_per_row, 512, 2, 1, 512}, // not yet measured
    {      2048, Mapping::cluster_per_row, 512, 2, 2, 512}, // not yet measured
    {      4096, Mapping::cluster_per_row, 512, 2, 4, 512}, // not yet measured
    {      8192, Mapping::cluster_per_row, 512, 2, 8, 512}, // not yet measured
    {kAnyLength,      Mapping::reread_row, 512, 2, 1, 512}, // not yet measured
    {kAnyLength,       Mapping::split_row, 512, 2, 1, 512}, // not yet measured
});

inline constexpr auto kForwardInDoublePolicies = std::to_array<LaunchPolicy>({
    {        16,    Mapping::warp_per_row,   8, 2, 1, 128}, // not yet measured
    {        32,    Mapping::warp_per_row,  32, 1, 1, 128}, // not yet measured
    {        64,    Mapping::warp_per_row,  32, 2, 1, 128}, // not yet measured
    {       128,    Mapping::warp_per_row,  32, 4, 1, 128}, // not yet measured
    {       256,   Mapping::block_per_row,  64, 4, 1,  64}, // not yet measured
    {       512,   Mapping::block_per_row, 128, 4, 1, 128}, // not yet measured
    {      1024,   Mapping::block_per_row, 256, 4, 1, 256}, // not yet measured
    {      2048, Mapping::cluster_per_row, 256, 4, 2, 256}, // not yet measured
    {      4096, Mapping::cluster_per_row, 256, 4, 4, 256}, // not yet measured
    {      8192, Mapping::cluster_per_row, 256, 4, 8, 256}, // not yet measured
    {kAnyLength,      Mapping::reread_row, 256, 4, 1, 256}, // not yet measured
    {kAnyLength,       Mapping::split_row, 256, 4, 1, 256}, // not yet measured
});

inline constexpr auto kBackwardInDoublePolicies = std::to_array<LaunchPolicy>({
    {         8,    Mapping::warp_per_row,   8, 1, 1, 128}, // not yet measured
    {        32,    Mapping::warp_per_row,  32, 1, 1, 128}, // not yet measured
    {        64,    Mapping::warp_per_row,  32, 2, 1, 128}, // not yet measured
    {       128,   Mapping::block_per_row,  64, 2, 1,  64}, // not yet measured
    {       256,   Mapping::block_per_row, 128, 2, 1, 128}, // not yet measured
    {       512,   Mapping::block_per_row, 256, 2, 1, 256}, // not yet measured
    {      1024, Mapping::cluster_per_row, 256, 2, 2, 256}, // not yet measured
    {      2048, Mapping::cluster_per_row, 256, 2, 4, 256}, // not yet measured
    {      4096, Mapping::cluster_per_row, 256, 2, 8, 256}, // not yet measured
    {kAnyLength,      Mapping::reread_row, 256, 2, 1, 256}, // not yet measured
    {kAnyLength,       Mapping::split_row, 256, 2, 1, 256}, // not yet measured
});

inline constexpr Pass kPasses[] = {
    Pass::forward, Pass::backward, Pass::forward_in_double, Pass::backward_in_double};

constexpr std::span<const LaunchPolicy> policies_of(Pass pass) {
  switch (pass) {
    case Pass::forward:
      return kForwardPolicies;
    case Pass::backward:
      return kBackwardPolicies;
    case Pass::forward_in_double:
      return kForwardInDoublePolicies;
    default:
      return kBackwardInDoublePolicies;
  }
}

// Rows of at most this many elements and bytes are staged through shared memory as a slab.
inline constexpr int64_t kMaxSlabLength = 32;     // not yet measured
inline constexpr int64_t kMaxSlabRowBytes = 128;  // not yet measured
inline constexpr int kSlabRows = 128;             // not yet measured

constexpr bool fits_slab(int64_t length, std::size_t largest_element) {
  return length <= kMaxSlabLength &&
         length * static_cast<int64_t>(largest_element) <= kMaxSlabRowBytes;
}

// What the choice depends on besides the table. `row_count_splits` is the only thing that the
// number of rows decides: reread_row and split_row give a row the same bits.
struct LaunchConditions {
  bool has_clusters;
  bool keeps_rows;  // the operator needs a row twice: for its summary and for its map
  bool reduces;
  bool row_count_splits;
};

// Fewer rows than multiprocessors leave some of those idle, unless rows are split.
constexpr bool row_count_splits(int64_t rows, int multiprocessors) {
  return rows < multiprocessors;  // not yet measured
}

constexpr bool allows(const LaunchPolicy& policy, const LaunchConditions& conditions) {
  switch (policy.mapping) {
    case Mapping::cluster_per_row:
      return conditions.has_clusters && conditions.keeps_rows;
    case Mapping::reread_row:
      return conditions.reduces && !conditions.row_count_splits;
    default:
      return true;
  }
}

// The first row of the table that holds a row and is allowed. The last always is.
constexpr std::size_t choose_policy(
    std::span<const LaunchPolicy> table, int64_t packs, const LaunchConditions& conditions) {
  for (std::size_t i = 0; i + 1 < table.size(); ++i)
    if (packs <= table[i].max_packs && allows(table[i], conditions)) return i;
  return table.size() - 1;
}

// What a kernel is compiled for; rows of a table may share it.
template <int threads, int threads_per_row, int packs>
struct LaunchShape {
  static constexpr int kThreads = threads;  // of a block
  static constexpr int kThreadsPerRow = threads_per_row;
  static constexpr int kPacks = packs;  // of a thread
};

template <Pass pass, std::size_t index>
struct PolicyAt {
  static constexpr LaunchPolicy kValue = policies_of(pass)[index];
  using Shape =
      LaunchShape<kValue.threads_per_block, kValue.threads_per_row, kValue.packs_per_thread>;
};

// body.template operator()<PolicyAt<pass, chosen>>().
template <Pass pass, typename Result, typename Body>
constexpr Result with_policy(std::size_t chosen, Body&& body) {
  Result result{};
  const auto call_chosen = [&]<std::size_t... i>(std::index_sequence<i...>) {
    ((chosen == i && (result = body.template operator()<PolicyAt<pass, i>>(), true)) || ...);
  };
  call_chosen(std::make_index_sequence<policies_of(pass).size()>{});
  return result;
}

constexpr bool is_sound(const LaunchPolicy& policy) {
  const bool is_block = std::has_single_bit(static_cast<unsigned>(policy.threads_per_block)) &&
                        policy.threads_per_block >= 32 && policy.threads_per_block <= 1024;
  const int64_t capacity =
      int64_t{policy.threads_per_row} * policy.packs_per_thread * policy.blocks_per_row;
  const bool holds_row = policy.max_packs == kAnyLength || policy.max_packs == capacity;
  switch (policy.mapping) {
    case Mapping::slab:
      return false;  // chosen by kMaxSlabLength
    case Mapping::warp_per_row:
      return is_block && holds_row && policy.blocks_per_row == 1 && policy.threads_per_row <= 32 &&
             std::has_single_bit(static_cast<unsigned>(policy.threads_per_row));
    case Mapping::cluster_per_row:
      return is_block && holds_row && policy.threads_per_row == policy.threads_per_block &&
             policy.blocks_per_row >= 2 && policy.blocks_per_row <= 8;
    default:
      return is_block && holds_row && policy.threads_per_row == policy.threads_per_block &&
             policy.blocks_per_row == 1;
  }
}

// Bounds ascend, and clusters and loops over tiles have tiles of one size: else a row's bits would
// depend on which of them takes it.
constexpr bool is_sound(std::span<const LaunchPolicy> table) {
  const LaunchPolicy& last = table.back();
  if (last.mapping != Mapping::split_row || last.max_packs != kAnyLength) return false;
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (!is_sound(table[i])) return false;
    if (i > 0 && table[i - 1].max_packs >= table[i].max_packs && table[i].max_packs != kAnyLength)
      return false;
    const bool has_tiles = table[i].max_packs == kAnyLength || table[i].blocks_per_row > 1;
    if (has_tiles && (table[i].threads_per_block != last.threads_per_block ||
                      table[i].packs_per_thread != last.packs_per_thread))
      return false;
  }
  return true;
}

static_assert(std::ranges::all_of(kPasses, [](Pass pass) { return is_sound(policies_of(pass)); }));

}  // namespace softmax_ext::cuda
