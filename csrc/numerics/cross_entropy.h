#pragma once
// Softmax-cross-entropy of one row against a class index, and its gradient.
//
//   loss   = −log p[target]   = (max − x[target]) + log Σ exp(x − max)
//   dx[j]  = dloss · (p[j] − [j = target]),   p[j] = exp(x[j] − max) / Σ exp(x − max)
//
// Backward makes p again from the logits and two numbers a row, max and log Σ exp(x − max). They
// are kept apart: one rounded log-sum-exp near 1e4 would cost the gradient four of its seven
// digits.

#include "csrc/numerics/row_operators.h"

namespace softmax_ext {

template <typename Lane>
struct CrossEntropyRow {
  Lane loss;
  Lane max;
  Lane log_sum;
};

// `log_sum` is log Σ exp(x − max), of a row without probabilities too.
template <typename Lane, typename Total>
SOFTMAX_EXT_HOST_DEVICE CrossEntropyRow<Lane> cross_entropy_row(
    Lane max, Total log_sum, Lane target_logit) {
  const bool is_undefined = SoftmaxSummary<Lane, Total>{max, log_sum}.is_undefined();
  const Total defined = is_undefined ? kNaN<Total> : log_sum;
  const Total distance = Total(max) - Total(target_logit);
  return {Lane(distance + defined), max, Lane(defined)};
}
template <typename Lane, typename Total>
SOFTMAX_EXT_HOST_DEVICE CrossEntropyRow<Lane> cross_entropy_row(
    SoftmaxSummary<Lane, Total> summary, Lane target_logit) {
  return cross_entropy_row(summary.max, summary.log_sum(), target_logit);
}

template <typename Lane>
struct CrossEntropyGradient {
  ShiftedExponential<Lane> exponential;  // exp(x − max)
  Lane factor;                           // dloss / Σ exp(x − max)
  Lane true_class;                       // the gradient of the target's logit

  // That of every other logit.
  SOFTMAX_EXT_HOST_DEVICE Lane other_class(Lane logit) const { return exponential(logit) * factor; }
};

// `grad` is that of the row's loss. p − 1 is formed without cancellation: near p = 1 the difference
// would keep no digit.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE CrossEntropyGradient<Lane> cross_entropy_gradient(
    Lane max, Lane log_sum, Lane grad, Lane target_logit) {
  return {
      {max, Lane(1)},
      exponential(-log_sum) * grad,
      exponential_minus_1((target_logit - max) - log_sum) * grad
  };
}

// The same for a loss with options (csrc/losses.h). The classes' weights q are made of what is spread
// over them, u_j = w_j · (share · t_j + uniform), and for a class t what is put on it alone:
//
//   probabilities   share = 1 − e, uniform = e/C, peak = 0
//   a class t       share = 0,     uniform = e/C, peak = (1 − e) · w_t
template <typename Lane>
struct ClassWeights {
  Lane share;
  Lane uniform;

  SOFTMAX_EXT_HOST_DEVICE bool are_zero() const { return share == 0 && uniform == 0; }
  template <typename L>
  SOFTMAX_EXT_HOST_DEVICE L operator()(L weight, L probability) const {
    return weight * (L(share) * probability + L(uniform));
  }
};

// u · distance, where a class that weighs nothing counts as nothing, however far away it is.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane weighted_distance(Lane weight, Lane distance) {
  return select(weight == Lane(0), Lane(0), weight * distance);
}

// What such a loss has to know of any part of a row: the logits' summary, and from their maximum
// Σ u_j · (x_j − max) / T, with Σ u_j.
template <typename Lane>
struct WeightedSummary {
  SoftmaxSummary<Lane> logits;
  Lane distance;
  Lane spread;

  SOFTMAX_EXT_HOST_DEVICE static WeightedSummary empty() {
    return {SoftmaxSummary<Lane>::empty(), 0, 0};
  }
};

template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE WeightedSummary<Lane> merge(
    const WeightedSummary<Lane>& a, const WeightedSummary<Lane>& b, Lane scale) {
  const auto low = a.logits.max < b.logits.max ? a : b;
  const auto high = a.logits.max < b.logits.max ? b : a;
  const Lane between = low.logits.max == high.logits.max
                           ? Lane(0)
                           : scaled_distance(low.logits.max, high.logits.max, scale);
  return {
      merge(a.logits, b.logits, scale),
      (low.distance + weighted_distance(low.spread, between)) + high.distance,
      a.spread + b.spread};
}

template <typename Lane>
struct WeightedLossRow {
  Lane max;
  Lane log_sum;   // for the loss, NaN where there are no probabilities
  Lane scale;     // 1/T
  Lane spread;    // Σ u
  Lane distance;  // Σ u_j · (x_j − max) / T
  Lane peak;
  Lane target_distance;  // (x_t − max) / T

  SOFTMAX_EXT_HOST_DEVICE Lane logsumexp() const {
    return LogSumExpForward<Lane, Lane>{{scale}}.result(max, log_sum);
  }
  // NaN for a row without probabilities, even if its class weighs nothing.
  SOFTMAX_EXT_HOST_DEVICE Lane loss(Lane z_loss) const {
    if (log_sum != log_sum) return log_sum;
    Lane result = weighted_distance(spread, log_sum) - distance;
    result += weighted_distance(peak, log_sum - target_distance);
    if (z_loss != 0) {
      const Lane lse = logsumexp();
      result += z_loss * lse * lse;
    }
    return result;
  }
};

// dx_j = exp((x_j − max) / T) · factor − u_j · share, but for the target's; softcap aside.
template <typename Lane>
struct WeightedGradient {
  Lane factor;
  Lane share;
  Lane true_class;
};

// `grad` and `grad_logsumexp` are those of the row's loss and of its log-sum-exp; `target_weight` is u_t.
// The limits of T, where nothing moves, are in `gradient_scale` = d(x/T)/dx.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE WeightedGradient<Lane> weighted_gradient(
    const WeightedLossRow<Lane>& row,
    Lane gradient_scale,
    Lane z_loss,
    Lane grad,
    Lane grad_logsumexp,
    Lane target_weight) {
  // The log-sum-exp of a row of −inf alone has the gradient 0, as logsumexp's.
  if (row.max == -kInfinity<Lane> && grad == 0) return {0, 0, 0};
  Lane of_logsumexp = grad_logsumexp;
  if (z_loss != 0) of_logsumexp += 2 * z_loss * grad * row.logsumexp();
  const Lane others = grad * row.spread + of_logsumexp;
  const Lane target_logp = row.target_distance - row.log_sum;
  // With p − 1 of the target's own weight formed without cancellation.
  const Lane true_class = grad * row.peak * exponential_minus_1(target_logp) +
                          others * exponential(target_logp) - grad * target_weight;
  return {
      (grad * row.peak + others) * exponential(-row.log_sum) * gradient_scale,
      grad * gradient_scale,
      true_class * gradient_scale};
}

}  // namespace softmax_ext
