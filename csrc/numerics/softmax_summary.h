#pragma once
// What softmax has to know of a row, in a form that merges: the maximum and the sum of exponentials
// measured from it (Milakov and Gimelshein 2018, arXiv:1805.02867, section 3).

#include "csrc/numerics/elementary.h"

namespace softmax_ext {

// Summary of any subset S of a row's logits:  max = max(S),  rest = Σ exp((x − max) · scale) over
// S, less 1.
//
// The 1 is the maximum's own exponential. It is never added in, so that log1p(rest) is exact to the
// last bits where one class holds nearly all of the probability; 1 + rest would round there, and
// log_softmax and the loss near 0 with it. `Total` may be wider than `Lane`: double totals keep the
// error of long float rows independent of their length.
template <typename Lane, typename Total = Lane>
struct SoftmaxSummary {
  Lane max;
  Total rest;

  // The summary of no logits (sum 0); merging it changes nothing.
  SOFTMAX_EXT_HOST_DEVICE static SoftmaxSummary empty() { return {-kInfinity<Lane>, Total(-1)}; }

  SOFTMAX_EXT_HOST_DEVICE Total sum() const { return 1 + rest; }

  // Of a row without probabilities: all −inf, or with +inf. (NaN is in the sum already.)
  SOFTMAX_EXT_HOST_DEVICE auto is_undefined() const {
    constexpr auto infinity = kInfinity<ScalarOf<Lane>>;
    return (max == Lane(infinity)) | (max == Lane(-infinity));
  }

  // log Σ exp((x − max) · scale).
  SOFTMAX_EXT_HOST_DEVICE Total log_sum() const { return logarithm_of_1_plus(rest); }
};

// The maximum first, then every exponential once: one exponential per logit, where updating element
// by element takes two. NaN is skipped by the maximum and carried by the sum. As the maxima are
// counted and not subtracted from themselves, an infinite one makes no NaN: −inf alone has the sum
// 0, and +inf can be told from NaN.
template <typename Total, typename Lane, typename Logits>
SOFTMAX_EXT_HOST_DEVICE SoftmaxSummary<Lane, Total> summarize_logits(
    const Logits& logits, int count, Lane scale) {
  Lane max = -kInfinity<Lane>;
  SOFTMAX_EXT_UNROLL
  for (int i = 0; i < count; ++i) {
    const Lane logit = logits[i];
    max = logit > max ? logit : max;
  }
  // In groups, whose sums are then added: the rounding errors of a sum grow with the number of its
  // terms.
  constexpr int kGroup = 16;
  Total others = 0;
  Total maxima = 0;
  SOFTMAX_EXT_UNROLL
  for (int begin = 0; begin < count; begin += kGroup) {
    const int end = begin + kGroup < count ? begin + kGroup : count;
    Total group = 0;
    SOFTMAX_EXT_UNROLL
    for (int i = begin; i < end; ++i) {
      const Lane logit = logits[i];
      const bool is_max = logit == max;
      // Made before it is chosen: a choice between values is no branch, and the exponentials of a
      // chunk overlap.
      const Total term = exponential(scaled_distance(logit, max, scale));
      maxima += is_max ? Total(1) : Total(0);
      group += is_max ? Total(0) : term;
    }
    others += group;
  }
  return {max, max == -kInfinity<Lane> ? others - 1 : others + (maxima - 1)};
}

// Bitwise commutative, with or without fused multiply-add: lanes that swap summaries agree. The two
// roles depend on the maxima alone, and at equal maxima the factor is exactly 1.
template <typename Lane, typename Total>
SOFTMAX_EXT_HOST_DEVICE SoftmaxSummary<Lane, Total> merge(
    SoftmaxSummary<Lane, Total> a, SoftmaxSummary<Lane, Total> b, Lane scale) {
  const auto high = a.max < b.max ? b : a;
  const auto low = a.max < b.max ? a : b;
  const Total factor =
      low.max == high.max
          ? Total(1)
          : exponential(scaled_distance(Total(low.max), Total(high.max), Total(scale)));
  return {high.max, (high.rest + low.rest * factor) + factor};
}

}  // namespace softmax_ext
