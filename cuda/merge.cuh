#pragma once
// Reductions across the threads that share a row, or a tile of one.
//
// Their results have the same bits wherever the row lies in memory. Threads hold a row in packs that
// begin at multiples of 16 bytes, so a row of an odd length lies `shift` elements further along the
// threads than an aligned one. A maximum does not mind. A sum is made of one partial sum per element
// of a pack, and these are added in an order that rotating all threads' elements by `shift` does not
// change: of n partial sums in a circle, first those n/2 apart, then those n/4 apart, and so on.
//
//   n = 8:  0+4 1+5 2+6 3+7      (0+4)+(2+6)  (1+5)+(3+7)      the sum of the two
//   rotated by 1:
//           7+3 0+4 1+5 2+6      (7+3)+(1+5)  (0+4)+(2+6)      the same

#include <cstdint>
#include <type_traits>

#include "csrc/numerics/elementary.h"
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

// Every lane of each aligned group of `lanes` lanes receives what `combine` makes of all of theirs.
// All lanes of the warp take part. As `combine` is bitwise commutative, all end with the same bits
// and nothing is broadcast.
//
//   offset 1:  0↔1 2↔3 4↔5 6↔7     offset 2:  0↔2 1↔3 4↔6 5↔7     offset 4:  0↔4 1↔5 2↔6 3↔7
template <int lanes, typename Value, typename Combine>
__device__ __forceinline__ Value combine_lanes(Value mine, Combine combine) {
  static_assert(lanes <= simt::kWarpLanes && (lanes & (lanes - 1)) == 0);
  SOFTMAX_EXT_UNROLL
  for (int offset = 1; offset < lanes; offset *= 2) mine = combine(mine, shuffle_xor(mine, offset));
  return mine;
}

// The sum of `count` partial sums of each of `lanes` lanes, in the order above. While a lane has more
// than one, two partners each take over half of them.
template <int lanes, int count, typename Lane>
__device__ __forceinline__ Lane sum_lanes(const Lane (&partial)[count]) {
  const int lane = simt::thread_index() % simt::kWarpLanes;
  Lane sums[count];
  SOFTMAX_EXT_UNROLL
  for (int j = 0; j < count; ++j) sums[j] = partial[j];
  int left = count;
  SOFTMAX_EXT_UNROLL
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    if (left == 1) {
      sums[0] += shuffle_xor(sums[0], offset);
      continue;
    }
    left /= 2;
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < count / 2; ++j) {
      if (j >= left) continue;
      const bool is_upper = lane & offset;
      const Lane given = is_upper ? sums[j] : sums[j + left];
      const Lane kept = is_upper ? sums[j + left] : sums[j];
      sums[j] = kept + shuffle_xor(given, offset);
    }
  }
  // Along the pack: first between the lanes that took over half of it.
  int offset = lanes / 2;
  SOFTMAX_EXT_UNROLL
  for (int taken = count; taken > left; taken /= 2) {
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < count / 2; ++j)
      if (j < left) sums[j] += shuffle_xor(sums[j], offset);
    offset /= 2;
  }
  SOFTMAX_EXT_UNROLL
  for (int half = count / 2; half > 0; half /= 2) {
    if (half >= left) continue;
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < count / 2; ++j)
      if (j < half) sums[j] += sums[j + half];
  }
  return sums[0];
}

// A sum of terms, and the number of maxima among the elements.
template <typename Lane>
struct TermSum {
  Lane sum;
  Lane maxima;
};

// And of terms times their distances.
template <typename Lane>
struct DistanceSum {
  Lane sum;
  Lane maxima;
  Lane distances;
};

struct AddTermSums {
  template <typename Lane>
  __device__ __forceinline__ TermSum<Lane> operator()(TermSum<Lane> a, TermSum<Lane> b) const {
    return {a.sum + b.sum, a.maxima + b.maxima};
  }
  template <typename Lane>
  __device__ __forceinline__ DistanceSum<Lane> operator()(
      DistanceSum<Lane> a, DistanceSum<Lane> b) const {
    return {a.sum + b.sum, a.maxima + b.maxima, a.distances + b.distances};
  }
};
struct Add {
  template <typename Lane>
  __device__ __forceinline__ Lane operator()(Lane a, Lane b) const {
    return a + b;
  }
};
struct Maximum {
  template <typename Lane>
  __device__ __forceinline__ Lane operator()(Lane a, Lane b) const {
    return maximum(a, b);
  }
};

// An aligned group of the lanes of a warp; one lane alone too.
template <int lanes>
class LaneTeam {
 public:
  static constexpr int kThreads = lanes;

  __device__ __forceinline__ int thread() const { return simt::thread_index() % lanes; }

  template <typename Lane>
  __device__ __forceinline__ Lane max(Lane mine) const {
    return combine_lanes<lanes>(mine, Maximum());
  }
  // `maxima` are counted where with_maxima. Nothing depends on the shift: the circle closes here.
  template <bool with_maxima, int count, typename Lane>
  __device__ __forceinline__ TermSum<Lane> sum(
      Lane (&partial)[count], Lane maxima, [[maybe_unused]] int shift) const {
    if constexpr (with_maxima) maxima = combine_lanes<lanes>(maxima, Add());
    return {sum_lanes<lanes>(partial), maxima};
  }
};

// All threads of a block. Every result is exchanged once through shared memory, with one barrier.
template <int threads>
class BlockTeam {
 public:
  static constexpr int kThreads = threads;

  __device__ __forceinline__ int thread() const { return simt::thread_index(); }

  template <typename Lane>
  __device__ __forceinline__ Lane max(Lane mine) {
    auto& of_warp = simt::shared<Exchange<Lane>>().of_warp[next_turn()];
    mine = combine_lanes<simt::kWarpLanes>(mine, Maximum());
    if (lane() == 0) of_warp[warp()] = mine;
    simt::sync_block();
    return combine_lanes<kWarps>(of_warp[lane() % kWarps], Maximum());
  }

  template <bool with_maxima, int count, typename Lane>
  __device__ __forceinline__ TermSum<Lane> sum(Lane (&partial)[count], Lane maxima, int shift) {
    using Value = std::conditional_t<with_maxima, TermSum<Lane>, Lane>;
    using Combine = std::conditional_t<with_maxima, AddTermSums, Add>;
    auto& of_warp = simt::shared<Exchange<Value>>().of_warp[next_turn()];
    if (shift != 0) close_circles(partial, shift);
    Value mine;
    if constexpr (with_maxima)
      mine = {sum_lanes<simt::kWarpLanes>(partial), combine_lanes<simt::kWarpLanes>(maxima, Add())};
    else
      mine = sum_lanes<simt::kWarpLanes>(partial);
    if (lane() == 0) of_warp[warp()] = mine;
    simt::sync_block();
    const Value all = combine_lanes<kWarps>(of_warp[lane() % kWarps], Combine());
    if constexpr (with_maxima)
      return all;
    else
      return {all, maxima};
  }

 private:
  static constexpr int kWarps = threads / simt::kWarpLanes;
  static_assert(kWarps * simt::kWarpLanes == threads && (kWarps & (kWarps - 1)) == 0);

  __device__ __forceinline__ static int lane() { return simt::thread_index() % simt::kWarpLanes; }
  __device__ __forceinline__ static int warp() { return simt::thread_index() / simt::kWarpLanes; }

  // The elements of an aligned row that a warp holds lie in a shifted one up to the first `shift`
  // elements of the next warp: those partial sums come back.
  template <int count, typename Lane>
  __device__ __forceinline__ static void close_circles(Lane (&partial)[count], int shift) {
    struct Exchange {
      Lane of_first_lane[kWarps][count];
    };
    auto& of_first_lane = simt::shared<Exchange>().of_first_lane;
    if (lane() == 0) {
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < count; ++j) of_first_lane[warp()][j] = partial[j];
    }
    simt::sync_block();
    if (lane() == 0) {
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < count; ++j)
        if (j < shift) partial[j] = of_first_lane[(warp() + 1) % kWarps][j];
    }
  }

  // Places alternate: a thread that writes to one again has passed a barrier that all threads reach
  // after their last read of it.
  template <typename Value>
  struct Exchange {
    Value of_warp[2][kWarps];
  };
  __device__ __forceinline__ int next_turn() { return turn_ ^= 1; }

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
  __device__ __forceinline__ const typename Operator::Summary& of_lane() const { return mine_; }
  // All lanes of the warp take part, and receive it.
  __device__ __forceinline__ typename Operator::Summary of_row() const {
    return combine_lanes<simt::kWarpLanes>(
        mine_, [this](const auto& a, const auto& b) { return op_.merge(a, b); });
  }

 private:
  Operator op_;
  typename Operator::Summary mine_;
};

}  // namespace softmax_ext::cuda
