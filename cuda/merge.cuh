#pragma once
// Merging summaries across the threads that share a row.

#include <cstdint>
#include <type_traits>

#include "csrc/numerics/host_device.h"
#include "cuda/simt.h"

namespace softmax_ext::cuda {

// The value of the lane whose index differs by `offset` (xor), for any type made of 32-bit words.
template <typename Value>
__device__ __forceinline__ Value shuffle_xor(const Value& mine, int offset) {
  static_assert(std::is_trivially_copyable_v<Value> && sizeof(Value) % sizeof(uint32_t) == 0);
  constexpr int kWords = sizeof(Value) / sizeof(uint32_t);
  uint32_t words[kWords];
  __builtin_memcpy(words, &mine, sizeof(Value));
  SOFTMAX_EXT_UNROLL
  for (int i = 0; i < kWords; ++i) words[i] = simt::shuffle_xor(words[i], offset);
  Value theirs;
  __builtin_memcpy(&theirs, words, sizeof(Value));
  return theirs;
}

// Every lane of each aligned group of `lanes` lanes receives the group's merged summary. All lanes
// of the warp take part.
//
//   offset 1:  0↔1 2↔3 4↔5 6↔7     offset 2:  0↔2 1↔3 4↔6 5↔7     offset 4:  0↔4 1↔5 2↔6 3↔7
//
// Two partners merge the same two summaries, each with its own first. As an operator's merge is
// bitwise commutative, all lanes end with the same bits and nothing is broadcast.
template <int lanes, typename Operator>
__device__ __forceinline__ typename Operator::Summary merge_across_lanes(
    const Operator& op, typename Operator::Summary mine) {
  static_assert(lanes <= simt::kWarpLanes && (lanes & (lanes - 1)) == 0);
  SOFTMAX_EXT_UNROLL
  for (int offset = 1; offset < lanes; offset *= 2)
    mine = op.merge(mine, shuffle_xor(mine, offset));
  return mine;
}

// Every thread of the block receives its merged summary. One exchange through shared memory and one
// barrier for a row: the place of the exchange alternates, and a thread that writes there again has
// passed a barrier that all threads reach after their last read of it.
template <int threads>
class MergeAcrossBlock {
 public:
  template <typename Operator>
  __device__ __forceinline__ typename Operator::Summary operator()(
      const Operator& op, typename Operator::Summary mine) {
    using Summary = typename Operator::Summary;
    constexpr int kWarps = threads / simt::kWarpLanes;
    static_assert(kWarps * simt::kWarpLanes == threads && (kWarps & (kWarps - 1)) == 0);
    struct Exchange {
      Summary of_warp[2][kWarps];
    };
    auto& of_warp = simt::shared<Exchange>().of_warp[turn_];
    turn_ ^= 1;
    const int lane = simt::thread_index() % simt::kWarpLanes;
    mine = merge_across_lanes<simt::kWarpLanes>(op, mine);
    if (lane == 0) of_warp[simt::thread_index() / simt::kWarpLanes] = mine;
    simt::sync_block();
    return merge_across_lanes<kWarps>(op, of_warp[lane % kWarps]);
  }

 private:
  int turn_ = 0;
};

// Merges the summaries of the tiles of a long row, in an order that depends on nothing but their
// number: lane l of a warp those of the tiles l, l + 32, …, then all lanes. Whether a cluster, a
// loop or several launches made them plays no part.
template <typename Operator>
class MergeTiles {
 public:
  __device__ __forceinline__ explicit MergeTiles(const Operator& op) : op_(op), mine_(op.empty()) {}
  __device__ __forceinline__ static bool is_mine(int64_t tile) {
    return tile % simt::kWarpLanes == simt::thread_index() % simt::kWarpLanes;
  }
  __device__ __forceinline__ void add(const typename Operator::Summary& of_tile) {
    mine_ = op_.merge(mine_, of_tile);
  }
  // All lanes of the warp take part, and receive it.
  __device__ __forceinline__ typename Operator::Summary of_row() const {
    return merge_across_lanes<simt::kWarpLanes>(op_, mine_);
  }

 private:
  Operator op_;
  typename Operator::Summary mine_;
};

}  // namespace softmax_ext::cuda
