#pragma once
// What drawing a token from a row of logits is made of, whoever walks the row: which logits are kept,
// and where a running sum of weights passes a share of their total.

#include <cmath>
#include <cstdint>

#include "csrc/numerics/radix_select.h"

namespace softmax_ext {

// How a row is sampled. The kept logits are those no smaller than a threshold, so that equal logits
// are kept or left out together:
//
//   top_k   the k-th largest logit; off for 0 and less
//   top_p   the largest v for which the logits ≥ v have at least the share top_p of the probability of
//           those that top_k keeps; off from 1 on
//   min_p   the smallest one whose probability is at least min_p times that of the maximum; off for 0
//           and less
struct SamplingOptions {
  double scale;  // 1/T; infinite for T = 0, where the first of the maxima is drawn
  int64_t top_k;
  double top_p;
  double min_p;

  SOFTMAX_EXT_HOST_DEVICE bool is_valid() const {
    return scale >= 0 && top_p >= 0 && min_p <= 1;  // none is NaN
  }
  SOFTMAX_EXT_HOST_DEVICE bool has_top_k(int64_t length) const {
    return 0 < top_k && top_k < length;
  }
  SOFTMAX_EXT_HOST_DEVICE bool has_top_p() const { return top_p < 1; }
  SOFTMAX_EXT_HOST_DEVICE bool has_min_p() const { return min_p > 0; }
};

// The weight that the kept logits have to have, of a total for `top_p`: never 0, so that the maximum
// is kept.
SOFTMAX_EXT_HOST_DEVICE double needed_mass(double top_p, double total) {
  const double need = top_p * total;
  return need > 0 ? need : 0x1p-1000;
}

// The smallest logit whose exp((x − max) · scale) is at least min_p > 0.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane min_p_threshold(Lane max, double scale, double min_p) {
  if (scale == 0) return -kLargest<Lane>;
  const double lowest = ::log(min_p);
  const auto is_kept = [&](KeyOf<Lane> key) {
    return (static_cast<double>(value_of_key<Lane>(key)) - static_cast<double>(max)) * scale >=
           lowest;
  };
  auto low = ordered_key(-kLargest<Lane>);
  auto high = ordered_key(max);  // is kept
  SOFTMAX_EXT_NO_UNROLL
  while (low < high) {
    const auto middle = low + (high - low) / 2;
    if (is_kept(middle))
      high = middle;
    else
      low = middle + 1;
  }
  return value_of_key<Lane>(high);
}

// Inverts a distribution function: given weights one after another, the first at which their sum
// exceeds `target`. Where rounding leaves none, the last that is not 0.
class CdfSearch {
 public:
  SOFTMAX_EXT_HOST_DEVICE explicit CdfSearch(double target) : target_(target) {}

  // Whether it is found.
  SOFTMAX_EXT_HOST_DEVICE bool add(int64_t index, double weight) {
    if (!(weight > 0)) return false;
    index_ = index;
    below_ = sum_;
    sum_ += weight;
    return sum_ > target_;
  }
  SOFTMAX_EXT_HOST_DEVICE int64_t index() const { return index_; }  // −1: all weights are 0
  // What is left of the target before that weight.
  SOFTMAX_EXT_HOST_DEVICE double rest() const { return target_ - below_; }

 private:
  double target_;
  double sum_ = 0;
  double below_ = 0;
  int64_t index_ = -1;
};

}  // namespace softmax_ext
