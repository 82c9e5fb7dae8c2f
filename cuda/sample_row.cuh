#pragma once
// A row of logits that a block samples. It is walked in stretches of packs, a warp each, and sums are
// made stretch by stretch: their bits depend on the logits and the length alone, not on where the row
// lies in memory.

#include <algorithm>
#include <cstdint>

#include "csrc/numerics/sampling.h"
#include "cuda/merge.cuh"
#include "cuda/packed.cuh"

namespace softmax_ext::cuda {

struct Minimum {
  __device__ __forceinline__ int64_t operator()(int64_t a, int64_t b) const {
    return b < a ? b : a;
  }
};
struct Largest {
  __device__ __forceinline__ int64_t operator()(int64_t a, int64_t b) const {
    return a < b ? b : a;
  }
};
// NaN if either is.
struct MaximumOrNaN {
  template <typename Lane>
  __device__ __forceinline__ Lane operator()(Lane a, Lane b) const {
    return a != a || b != b ? kNaN<Lane> : maximum(a, b);
  }
};

// Low bits of the keys of lanes that tell no two elements apart.
template <typename T>
inline constexpr int kUnusedKeyBits = 0;
template <>
inline constexpr int kUnusedKeyBits<__nv_bfloat16> = 16;
template <>
inline constexpr int kUnusedKeyBits<__half> = 13;

template <typename T, int threads>
class SampledRow {
 public:
  using Lane = decltype(to_lane(T{}));

  // The weight of a logit: exp((x − base) · scale) from the threshold on, else 0.
  struct Terms {
    Lane base;
    Lane scale;
    Lane threshold;

    __device__ __forceinline__ Lane operator()(Lane logit) const {
      return logit >= threshold ? exponential((logit - base) * scale) : Lane(0);
    }
  };

  __device__ __forceinline__ SampledRow(const T* logits, int64_t length)
      : logits_(logits),
        length_(length),
        packs_((length - 1) / kPack + 1),
        packs_per_stretch_(((packs_ - 1) / (kStretches * simt::kWarpLanes) + 1) * simt::kWarpLanes),
        is_aligned_(misalignment(logits) == 0) {}

  // NaN if there is one. Every thread receives it, as what follows.
  __device__ __forceinline__ Lane maximum() const {
    Lane max = -kInfinity<Lane>;
    for_each_pack([&](int, const auto& pack) {
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < kPack; ++j) max = MaximumOrNaN()(max, pack.lane(j));
    });
    return combine_block(max, MaximumOrNaN());
  }

  // The sum of the terms up to each stretch, for pick(); returns that of all.
  __device__ __forceinline__ double sum(const Terms& terms) const {
    auto& sums = simt::shared<Sums>();
    simt::sync_block();  // others may have the last ones in use
    for (int stretch = warp(); stretch < kStretches; stretch += kWarps) {
      double sum = 0;
      for_each_pack_of(stretch, [&](const auto& pack) { sum += weight_of(pack, terms); });
      sum = combine_lanes<simt::kWarpLanes>(sum, Add());
      if (lane() == 0) sums.before[stretch + 1] = sum;
    }
    simt::sync_block();
    if (simt::thread_index() == 0) {
      double before = 0;
      sums.before[0] = before;
      SOFTMAX_EXT_NO_UNROLL
      for (int stretch = 0; stretch < kStretches; ++stretch)
        sums.before[stretch + 1] = before += sums.before[stretch + 1];
    }
    simt::sync_block();
    return sums.before[kStretches];
  }

  // The largest logit ≥ `terms.threshold` that with all no smaller ones has `need` of their weights:
  // by mass their terms, else 1 each.
  template <bool by_mass>
  __device__ __forceinline__ Lane threshold(const Terms& terms, Lane max, double need) const {
    constexpr int kDigitBits = 3;
    using Search = RadixSearch<Lane, kDigitBits>;
    constexpr int kBins = Search::kBins;
    constexpr int kUnused = kUnusedKeyBits<T>;
    Search search(ordered_key(terms.threshold) >> kUnused, ordered_key(max) >> kUnused, 0, need);
    SOFTMAX_EXT_NO_UNROLL
    while (!search.is_done()) {
      Bins<kBins> bins = {};
      for (int stretch = warp(); stretch < kStretches; stretch += kWarps) {
        Lane of_stretch[kBins] = {};
        for_each_pack_of(stretch, [&](const auto& pack) {
          SOFTMAX_EXT_UNROLL
          for (int j = 0; j < kPack; ++j) {
            const Lane logit = pack.lane(j);
            const uint32_t bin = search.bin(ordered_key(logit) >> kUnused);
            const Lane weight = by_mass ? terms(logit) : Lane(1);
            SOFTMAX_EXT_UNROLL
            for (int i = 0; i < kBins; ++i)
              of_stretch[i] += bin == static_cast<uint32_t>(i) ? weight : Lane(0);
          }
        });
        SOFTMAX_EXT_UNROLL
        for (int i = 0; i < kBins; ++i) bins.weights[i] += static_cast<double>(of_stretch[i]);
      }
      search.choose(combine_block(bins, AddBins()).weights);
    }
    return value_of_key<Lane>(search.key() << kUnused);
  }

  // The first column at which the sum of the terms, which was made, exceeds `target`. All lanes of a
  // warp take part, and receive it.
  __device__ __forceinline__ int64_t pick(const Terms& terms, double target) const {
    const auto& before = simt::shared<Sums>().before;
    int64_t stretch = kStretches;
    int64_t last = 0;
    for (int s = lane(); s < kStretches; s += simt::kWarpLanes) {
      if (before[s + 1] > before[s]) last = s;
      if (before[s + 1] > target && stretch == kStretches) stretch = s;
    }
    stretch = combine_lanes<simt::kWarpLanes>(stretch, Minimum());
    // Where rounding has put the target out of reach.
    if (stretch == kStretches) stretch = combine_lanes<simt::kWarpLanes>(last, Largest());
    return pick_of(static_cast<int>(stretch), terms, target - before[stretch]);
  }

  __device__ __forceinline__ Lane operator[](int64_t column) const {
    return to_lane(logits_[column]);
  }

 private:
  static constexpr int kPack = kVectorElements<T>;
  static constexpr int kWarps = threads / simt::kWarpLanes;
  static constexpr int kStretches = 128;

  struct Sums {
    double before[kStretches + 1];
  };
  template <int bins>
  struct Bins {
    double weights[bins];
  };
  struct AddBins {
    template <int bins>
    __device__ __forceinline__ Bins<bins> operator()(Bins<bins> a, const Bins<bins>& b) const {
      SOFTMAX_EXT_UNROLL
      for (int i = 0; i < bins; ++i) a.weights[i] += b.weights[i];
      return a;
    }
  };

  const T* logits_;
  int64_t length_;
  int64_t packs_;
  int64_t packs_per_stretch_;
  bool is_aligned_;

  __device__ __forceinline__ static int lane() { return simt::thread_index() % simt::kWarpLanes; }
  __device__ __forceinline__ static int warp() { return simt::thread_index() / simt::kWarpLanes; }

  // −inf beyond the end.
  __device__ __forceinline__ Pack<T, kPack> load(int64_t index) const {
    const int64_t first = index * kPack;
    if (is_aligned_ && first + kPack <= length_) return load_pack<T, kPack>(logits_ + first);
    return load_elements<kPack>(
        logits_, first, int64_t{0}, length_, from_lane<T>(-kInfinity<Lane>));
  }
  template <typename Body>
  __device__ __forceinline__ void for_each_pack_of(int stretch, Body body) const {
    const int64_t begin = stretch * packs_per_stretch_;
    const int64_t end = std::min(begin + packs_per_stretch_, packs_);
    SOFTMAX_EXT_NO_UNROLL
    for (int64_t index = begin + lane(); index < end; index += simt::kWarpLanes) body(load(index));
  }
  template <typename Body>
  __device__ __forceinline__ void for_each_pack(Body body) const {
    for (int stretch = warp(); stretch < kStretches; stretch += kWarps)
      for_each_pack_of(stretch, [&](const auto& pack) { body(stretch, pack); });
  }
  __device__ __forceinline__ static double weight_of(
      const Pack<T, kPack>& pack, const Terms& terms) {
    Lane sum = 0;
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < kPack; ++j) sum += terms(pack.lane(j));
    return static_cast<double>(sum);
  }

  // Of all threads, in a fixed order; all receive it.
  template <typename Value, typename Combine>
  __device__ __forceinline__ static Value combine_block(Value mine, Combine combine) {
    struct Exchange {
      Value of_warp[kWarps];
    };
    auto& of_warp = simt::shared<Exchange>().of_warp;
    mine = combine_lanes<simt::kWarpLanes>(mine, combine);
    simt::sync_block();  // others may have the last ones in use
    if (lane() == 0) of_warp[warp()] = mine;
    simt::sync_block();
    return combine_lanes<kWarps>(of_warp[lane() % kWarps], combine);
  }

  __device__ __forceinline__ int64_t pick_of(int stretch, const Terms& terms, double target) const {
    const int64_t begin = stretch * packs_per_stretch_;
    const int64_t end = std::min(begin + packs_per_stretch_, packs_);
    double before = 0;
    int64_t last = begin;  // the last pack of this lane with a weight
    int64_t found = -1;
    double rest = target;
    SOFTMAX_EXT_NO_UNROLL
    for (int64_t base = begin; base < end && found < 0; base += simt::kWarpLanes) {
      const double mine = weight_of(load(base + lane()), terms);
      if (mine > 0) last = base + lane();
      double through = mine;  // with all lanes before this one
      double total = mine;
      SOFTMAX_EXT_UNROLL
      for (int offset = 1; offset < simt::kWarpLanes; offset *= 2) {
        const double theirs = shuffle_xor(total, offset);
        if (lane() & offset) through += theirs;
        total += theirs;
      }
      const bool exceeds = mine > 0 && before + through > target;
      const int64_t first =
          combine_lanes<simt::kWarpLanes>(int64_t{exceeds ? lane() : simt::kWarpLanes}, Minimum());
      if (first < simt::kWarpLanes) {
        found = base + first;
        const double of_lane = lane() == first ? target - (before + through - mine) : 0;
        rest = combine_lanes<simt::kWarpLanes>(of_lane, Add());
      }
      before += total;
    }
    // Where rounding has put the target out of reach, the last one that has a weight.
    if (found < 0) {
      found = combine_lanes<simt::kWarpLanes>(last, Largest());
      rest = kInfinity<double>;
    }
    const auto pack = load(found);
    CdfSearch search(rest);
    bool is_found = false;
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < kPack; ++j)
      if (!is_found)
        is_found = search.add(found * kPack + j, static_cast<double>(terms(pack.lane(j))));
    return search.index();
  }
};

}  // namespace softmax_ext::cuda
