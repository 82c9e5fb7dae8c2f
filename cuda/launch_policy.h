#pragma once
// Which mapping of rows to threads a row takes: a table by the packs of 16 bytes in a row. Plain
// C++, tested without a GPU.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace softmax_ext::cuda {

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

// In packs.
constexpr int64_t capacity_of(const LaunchPolicy& policy) {
  return int64_t{policy.threads_per_row} * policy.packs_per_thread * policy.blocks_per_row;
}
constexpr bool holds_row(const LaunchPolicy& policy) {
  return policy.max_packs <= capacity_of(policy);
}

inline constexpr int64_t kAnyLength = INT64_MAX;
inline constexpr int64_t kMostClusterPacks = int64_t{1} << 24;  // a column's index is an int

// Packs in a row <=, mapping, threads per row, packs per thread, blocks per row, threads per block.
// The rows for any length take tiles of the size that a block of a cluster has.
//
// Measured on an H100 and an H200 with benchmarks/gpu/launch_shapes.cu: of the shapes that hold a row,
// the one that is fastest over float32 and bfloat16, forward and backward.
inline constexpr auto kPolicies = std::to_array<LaunchPolicy>({
    {         1,    Mapping::warp_per_row,   1, 1, 1, 128},
    {         2,    Mapping::warp_per_row,   2, 1, 1, 128},
    {         4,    Mapping::warp_per_row,   2, 2, 1, 128},
    {         8,    Mapping::warp_per_row,   4, 2, 1, 128},
    {        16,    Mapping::warp_per_row,   4, 4, 1, 128},
    {        32,    Mapping::warp_per_row,   8, 4, 1, 128},
    {        64,    Mapping::warp_per_row,  16, 4, 1, 128},
    {       128,    Mapping::warp_per_row,  32, 4, 1, 128},
    {       256,   Mapping::block_per_row,  64, 4, 1,  64},
    {       512,   Mapping::block_per_row, 128, 4, 1, 128},
    {      1024,   Mapping::block_per_row, 128, 8, 1, 128},
    {      2048,   Mapping::block_per_row, 256, 8, 1, 256},
    {      4096,   Mapping::block_per_row, 512, 8, 1, 512},
    {      8192, Mapping::cluster_per_row, 256, 8, 4, 256},
    {     16384, Mapping::cluster_per_row, 256, 8, 8, 256},
    {  16777216, Mapping::cluster_per_row, 256, 8, 8, 256},
    {kAnyLength,      Mapping::reread_row, 256, 8, 1, 256},
    {kAnyLength,       Mapping::split_row, 256, 8, 1, 256},
});

// Rows of at most this many elements and bytes are staged through shared memory as a slab, unless
// they are whole packs.
inline constexpr int64_t kMaxSlabLength = 32;     // not yet measured
inline constexpr int64_t kMaxSlabRowBytes = 128;  // not yet measured
inline constexpr int kSlabThreads = 128;          // not yet measured

constexpr bool fits_slab(int64_t length, std::size_t largest_element, int pack_elements) {
  return length <= kMaxSlabLength && length % pack_elements != 0 &&
         length * static_cast<int64_t>(largest_element) <= kMaxSlabRowBytes;
}

// What the choice depends on besides the table. `row_count_splits` is the only thing that the
// number of rows decides: split_row gives a row the same bits as the mappings that read it twice.
struct LaunchConditions {
  bool has_clusters;
  bool keeps_rows;  // the operator needs a row twice: for its summary and for its map
  bool reduces;
  int pack_words;  // of 4 bytes, that a pack of each input takes of registers
  bool row_count_splits;
};

// Fewer rows than multiprocessors leave some of those idle, unless rows are split.
constexpr bool row_count_splits(int64_t rows, int multiprocessors) {
  return rows < multiprocessors;
}

// A multiprocessor has room for two blocks of more threads at most: while one stores, the other loads,
// but without stores it would wait. And each thread of those has 128 registers.
inline constexpr int kMostThreads = 256;
constexpr bool fits_large_block(const LaunchConditions& conditions) {
  return conditions.keeps_rows && conditions.pack_words <= 8;
}

constexpr bool allows(const LaunchPolicy& policy, const LaunchConditions& conditions) {
  switch (policy.mapping) {
    case Mapping::block_per_row:
      return policy.threads_per_block <= kMostThreads || fits_large_block(conditions);
    case Mapping::cluster_per_row:
      return conditions.has_clusters && conditions.keeps_rows &&
             (holds_row(policy) || !conditions.row_count_splits);
    case Mapping::reread_row:
      return conditions.reduces && !conditions.row_count_splits;
    default:
      return true;
  }
}

// The first row of the table that holds a row and is allowed. The last always is.
constexpr std::size_t choose_policy(int64_t packs, const LaunchConditions& conditions) {
  for (std::size_t i = 0; i + 1 < kPolicies.size(); ++i)
    if (packs <= kPolicies[i].max_packs && allows(kPolicies[i], conditions)) return i;
  return kPolicies.size() - 1;
}

// What a kernel is compiled for; rows of a table may share it.
template <int threads, int threads_per_row, int packs>
struct LaunchShape {
  static constexpr int kThreads = threads;  // of a block
  static constexpr int kThreadsPerRow = threads_per_row;
  static constexpr int kPacks = packs;  // of a thread
};

template <std::size_t index>
struct PolicyAt {
  static constexpr LaunchPolicy kValue = kPolicies[index];
  using Shape =
      LaunchShape<kValue.threads_per_block, kValue.threads_per_row, kValue.packs_per_thread>;
};

// body.template operator()<PolicyAt<chosen>>().
template <typename Result, typename Body>
constexpr Result with_policy(std::size_t chosen, Body&& body) {
  Result result{};
  const auto call_chosen = [&]<std::size_t... i>(std::index_sequence<i...>) {
    ((chosen == i && (result = body.template operator()<PolicyAt<i>>(), true)) || ...);
  };
  call_chosen(std::make_index_sequence<kPolicies.size()>{});
  return result;
}

constexpr bool is_sound(const LaunchPolicy& policy) {
  const bool is_block = std::has_single_bit(static_cast<unsigned>(policy.threads_per_block)) &&
                        policy.threads_per_block >= 32 && policy.threads_per_block <= 1024;
  const bool fits = policy.max_packs == kAnyLength || policy.max_packs == capacity_of(policy);
  switch (policy.mapping) {
    case Mapping::slab:
      return false;  // chosen by kMaxSlabLength
    case Mapping::warp_per_row:
      return is_block && fits && policy.blocks_per_row == 1 && policy.threads_per_row <= 32 &&
             std::has_single_bit(static_cast<unsigned>(policy.threads_per_row));
    case Mapping::cluster_per_row:
      // Rows beyond what 8 blocks hold are read twice.
      return is_block && (fits || policy.blocks_per_row == 8) &&
             policy.max_packs <= kMostClusterPacks &&
             policy.threads_per_row == policy.threads_per_block &&
             std::has_single_bit(static_cast<unsigned>(policy.blocks_per_row)) &&
             policy.blocks_per_row >= 2 && policy.blocks_per_row <= 8;
    default:
      return is_block && fits && policy.threads_per_row == policy.threads_per_block &&
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

static_assert(is_sound(std::span(kPolicies)));

}  // namespace softmax_ext::cuda
