#pragma once
// What the loss of a row and its derivatives by the inverse temperature are made of.
//
// With b = 1/T, probabilities p = softmax(b · x) and the distance D = max − x of a logit:
//
//   loss          −log p[target] = b · D[target] + log Σ exp(−b · D)
//   its slope     d/db           = D[target] − E_p[D]      (= E_p[x] − x[target])
//   and the next  d²/db²         = Var_p[D]                (= Var_p[x]): the loss is convex in b

#include "csrc/numerics/softmax_summary.h"

namespace softmax_ext {

// Of any subset of a row's logits x, with d = x − max: its summary, Σ exp(b · d) · d and
// Σ exp(b · d) · d². What has no probability adds nothing, however far away.
template <typename Lane>
struct LogitMoments {
  SoftmaxSummary<Lane, double> summary;
  double first;
  double second;

  SOFTMAX_EXT_HOST_DEVICE static LogitMoments empty() {
    return {SoftmaxSummary<Lane, double>::empty(), 0, 0};
  }
};

template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE LogitMoments<Lane> merge(
    LogitMoments<Lane> a, LogitMoments<Lane> b, Lane scale) {
  const auto high = a.summary.max < b.summary.max ? b : a;
  const auto low = a.summary.max < b.summary.max ? a : b;
  LogitMoments<Lane> result{
      merge(a.summary, b.summary, scale), high.first + low.first, high.second + low.second};
  if (low.summary.max == high.summary.max) return result;
  const double shift = double(low.summary.max) - double(high.summary.max);
  const double factor = exponential(shift * double(scale));
  // A NaN is in the summary.
  result.first = high.first;
  result.second = high.second;
  if (factor > 0) {
    const double sum = low.summary.sum();
    result.first += factor * (low.first + shift * sum);
    result.second += factor * (low.second + shift * (2 * low.first + shift * sum));
  }
  return result;
}

// Weighted sums over rows. `distance` is that of the targets; NaN for a row without probabilities.
struct LossStatistics {
  double weight = 0;
  double loss = 0;
  double distance = 0;
  double expected_distance = 0;
  double variance = 0;

  SOFTMAX_EXT_HOST_DEVICE LossStatistics& operator+=(const LossStatistics& other) {
    weight += other.weight;
    loss += other.loss;
    distance += other.distance;
    expected_distance += other.expected_distance;
    variance += other.variance;
    return *this;
  }
};

// Of one row; `scale` is b.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE LossStatistics statistics_of_row(
    const LogitMoments<Lane>& moments, Lane target_logit, double scale, double weight) {
  const auto& summary = moments.summary;
  const double sum = summary.is_undefined() ? kNaN<double> : summary.sum();
  const double distance = double(summary.max) - double(target_logit);
  const double expected = -moments.first / sum;
  const double variance = moments.second / sum - expected * expected;
  return {
      weight,
      weight * (scale * distance + (summary.log_sum() + 0 * sum)),
      weight * distance,
      weight * expected,
      weight * (variance < 0 ? 0 : variance)};
}

}  // namespace softmax_ext
