#pragma once
// The entropy of a row's softmax, and its gradient, from distances D = (max − x)/T ≥ 0:
//
//   H     = −Σ p log p = log Σ exp(−D) + Σ p·D
//   dH/dx = (p/T) · (D − Σ p·D)
//
// Both parts of H are ≥ 0: nothing cancels, from a row that is nearly one-hot to one that is nearly
// uniform.
//
// | operator         | element | summary        | each element becomes              |
// | ---------------- | ------- | -------------- | --------------------------------- |
// | entropy          | x       | EntropySummary | – (the row yields H)              |
// | entropy backward | x       | EntropySummary | dy · exp(−D) / sum · (D − ΣpD) / T |

#include "csrc/numerics/row_operators.h"

namespace softmax_ext {

// And Σ exp(−D)·D of the same logits, which the maximum itself adds nothing to.
template <typename Lane, typename Total = Lane>
struct EntropySummary : SoftmaxSummary<Lane, Total> {
  Total distances;

  SOFTMAX_EXT_HOST_DEVICE static EntropySummary empty() {
    return {SoftmaxSummary<Lane, Total>::empty(), Total(0)};
  }
  // Σ p·D
  SOFTMAX_EXT_HOST_DEVICE Total mean_distance() const { return distances / this->sum(); }
};

// D of one logit: 0 where it is NaN (at the limits of the temperature; what is NaN itself is in the
// sum already), and finite, as it meets a probability of 0.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane distance_from(Lane max, Lane logit, Lane scale) {
  const Lane distance = maximum((max - logit) * scale, Lane(0));
  return distance > kLargest<Lane> ? kLargest<Lane> : distance;
}

// Bitwise commutative as that of SoftmaxSummary. Logits below the other maximum are further from it.
template <typename Lane, typename Total>
SOFTMAX_EXT_HOST_DEVICE EntropySummary<Lane, Total> merge(
    EntropySummary<Lane, Total> a, EntropySummary<Lane, Total> b, Lane scale) {
  using Softmax = SoftmaxSummary<Lane, Total>;
  const auto high = a.max < b.max ? b : a;
  const auto low = a.max < b.max ? a : b;
  const Total shift = low.max == high.max
                          ? Total(0)
                          : scaled_distance(Total(low.max), Total(high.max), Total(scale));
  const Total factor = exponential(shift);
  const Total moved = factor == 0 ? Total(0) : (low.distances - shift * low.sum()) * factor;
  return {merge(Softmax(a), Softmax(b), scale), high.distances + moved};
}

template <typename Lane, typename Total>
struct OverDistances : OverLogits<Lane, Total> {
  using Summary = EntropySummary<Lane, Total>;
  using OverLogits<Lane, Total>::scale;
  static constexpr bool kSumsDistances = true;

  SOFTMAX_EXT_HOST_DEVICE static Summary empty() { return Summary::empty(); }
  template <typename Elements>
  SOFTMAX_EXT_HOST_DEVICE Summary summarize(const Elements& logits, int count) const {
    const auto summary = summarize_logits<Total, Lane>(logits, count, scale);
    Total distances = 0;
    for (int i = 0; i < count; ++i)
      distances += Total(this->term(logits[i], summary.max)) * distance(logits[i], summary.max);
    return {summary, distances};
  }
  SOFTMAX_EXT_HOST_DEVICE Summary merge(Summary a, Summary b) const {
    return softmax_ext::merge(a, b, scale);
  }
  SOFTMAX_EXT_HOST_DEVICE Lane distance(Lane logit, Lane max) const {
    return distance_from(max, logit, scale);
  }
  SOFTMAX_EXT_HOST_DEVICE static Summary summary_of(
      Lane max, Total sum, Total maxima, Total distances) {
    return {OverLogits<Lane, Total>::summary_of(max, sum, maxima), distances};
  }
};

template <typename Lane, typename Total = Lane>
struct EntropyForward : OverDistances<Lane, Total> {
  using typename OverDistances<Lane, Total>::Summary;
  using OverDistances<Lane, Total>::scale;

  // NaN for a row without probabilities.
  SOFTMAX_EXT_HOST_DEVICE Lane result(Lane max, Total log_sum, Total mean_distance) const {
    const SoftmaxSummary<Lane, Total> summary{max, log_sum};
    const bool is_undefined = summary.is_undefined() | (scale != scale);
    return is_undefined ? kNaN<Lane> : Lane(log_sum + mean_distance);
  }
  SOFTMAX_EXT_HOST_DEVICE Lane result(Summary summary) const {
    return result(summary.max, summary.log_sum(), summary.mean_distance());
  }
};

template <typename Lane, typename Total = Lane>
struct EntropyBackward : OverDistances<Lane, Total> {
  using typename OverDistances<Lane, Total>::Summary;
  using OverDistances<Lane, Total>::scale;
  static constexpr bool kMapsTerms = false;

  Lane grad;  // of the row's entropy

  struct Constants {
    Lane max;
    Lane mean_distance;
    Lane factor;
  };

  SOFTMAX_EXT_HOST_DEVICE Constants constants(Summary summary) const {
    const Lane factor =
        this->is_undefined(summary) ? kNaN<Lane> : Lane(Total(grad) / summary.sum());
    return {summary.max, Lane(summary.mean_distance()), factor * gradient_scale(scale)};
  }
  SOFTMAX_EXT_HOST_DEVICE Lane map(Lane logit, Constants row) const {
    return this->term(logit, row.max) * (this->distance(logit, row.max) - row.mean_distance) *
           row.factor;
  }
};

}  // namespace softmax_ext
