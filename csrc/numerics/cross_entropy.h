#pragma once
// Softmax-cross-entropy of one row against a class index, and its gradient.
//
//   loss   = −log p[target]   = (max − x[target]) + log Σ exp(x − max)
//   dx[j]  = dloss · (p[j] − [j = target]),   p[j] = exp(x[j] − max) / Σ exp(x − max)
//
// Backward makes p again from the logits and two numbers a row, max and log Σ exp(x − max). They
// are kept apart: one rounded log-sum-exp near 1e4 would cost the gradient four of its seven
// digits.

#include "csrc/numerics/softmax_summary.h"

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

}  // namespace softmax_ext
