#pragma once
// The largest value that, with all that are no smaller, has at least a given weight: by digits of
// integers in the order of the values, without sorting.

#include <cstdint>
#include <cstring>

#include "csrc/numerics/elementary.h"
#include "csrc/numerics/host_device.h"

namespace softmax_ext {

template <typename Lane>
struct KeyOfLane;
template <>
struct KeyOfLane<float> {
  using Type = uint32_t;
};
template <>
struct KeyOfLane<double> {
  using Type = uint64_t;
};
template <typename Lane>
using KeyOf = typename KeyOfLane<Lane>::Type;

template <typename Lane>
inline constexpr KeyOf<Lane> kSignBit = KeyOf<Lane>(1) << (8 * sizeof(Lane) - 1);

// An integer in the order of the values, of numbers and infinities; −0 is 0.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE KeyOf<Lane> ordered_key(Lane value) {
  value += Lane(0);
  KeyOf<Lane> bits;
  memcpy(&bits, &value, sizeof bits);
  return bits & kSignBit<Lane> ? ~bits : bits | kSignBit<Lane>;
}
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane value_of_key(KeyOf<Lane> key) {
  const KeyOf<Lane> bits = key & kSignBit<Lane> ? key ^ kSignBit<Lane> : ~key;
  Lane value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// The search for that value among keys in [lowest, highest]. A round takes the weight of each bin of
// the keys that are left, and leaves those of one bin:
//
//   while (!search.is_done()) {
//     weights of all keys, by bin = search.bin(key), where that is below search.bins()
//     search.choose(weights);
//   }
template <typename Lane, int digit_bits>
class RadixSearch {
 public:
  using Key = KeyOf<Lane>;
  static constexpr int kBins = 1 << digit_bits;

  // `need` > 0 counts from the top, with `above` for what is larger than all keys.
  SOFTMAX_EXT_HOST_DEVICE RadixSearch(Key lowest, Key highest, double above, double need)
      : first_(lowest), above_(above), need_(need) {
    for (Key span = highest - lowest; span != 0; span >>= 1) ++left_bits_;
    next_digit();
  }

  SOFTMAX_EXT_HOST_DEVICE bool is_done() const { return bins_ == 1; }
  SOFTMAX_EXT_HOST_DEVICE int bins() const { return bins_; }
  // bins() or more for a key that is not among those left.
  SOFTMAX_EXT_HOST_DEVICE uint32_t bin(Key key) const {
    const Key index = (key - first_) >> shift_;
    return key >= first_ && index < Key(bins_) ? static_cast<uint32_t>(index) : uint32_t(kBins);
  }
  // The bin in which the weight from the top reaches `need`; the lowest one with a weight where
  // rounding keeps it from that.
  template <typename Weights>
  SOFTMAX_EXT_HOST_DEVICE void choose(const Weights& weights) {
    int chosen = 0;
    double above = above_;
    bool is_reached = false;
    SOFTMAX_EXT_UNROLL
    for (int i = kBins - 1; i >= 0; --i) {
      const double weight = i < bins_ && !is_reached ? static_cast<double>(weights[i]) : 0;
      if (!(weight > 0)) continue;
      chosen = i;
      above_ = above;
      above += weight;
      is_reached = above >= need_;
    }
    first_ += static_cast<Key>(chosen) << shift_;
    left_bits_ = shift_;
    next_digit();
  }
  // Once it is done.
  SOFTMAX_EXT_HOST_DEVICE Key key() const { return first_; }

 private:
  SOFTMAX_EXT_HOST_DEVICE void next_digit() {
    shift_ = left_bits_ > digit_bits ? left_bits_ - digit_bits : 0;
    bins_ = 1 << (left_bits_ - shift_);
  }

  Key first_;
  double above_;
  double need_;
  int left_bits_ = 0;
  int shift_ = 0;
  int bins_ = 1;
};

// Of `count` > 0 values with weights, or without them of weight 1 each; both arrays are overwritten.
template <typename Lane>
Lane radix_select(Lane* values, Lane* weights, int64_t count, double above, double need) {
  using Search = RadixSearch<Lane, 8>;
  auto lowest = ordered_key(values[0]);
  auto highest = lowest;
  for (int64_t i = 1; i < count; ++i) {
    const auto key = ordered_key(values[i]);
    lowest = key < lowest ? key : lowest;
    highest = key > highest ? key : highest;
  }
  Search search(lowest, highest, above, need);
  while (!search.is_done()) {
    double of_bins[Search::kBins] = {};
    int64_t left = 0;
    // What was left over by the last round is left behind in this one.
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t bin = search.bin(ordered_key(values[i]));
      if (bin >= static_cast<uint32_t>(search.bins())) continue;
      of_bins[bin] += weights ? weights[i] : 1;
      values[left] = values[i];
      if (weights) weights[left] = weights[i];
      ++left;
    }
    count = left;
    search.choose(of_bins);
  }
  return value_of_key<Lane>(search.key());
}

}  // namespace softmax_ext
