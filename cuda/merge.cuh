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

}  // namespace softmax_ext::cuda
