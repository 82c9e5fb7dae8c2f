#pragma once
// The elementary functions that the row operators call, by lane type.

#include <cmath>

#include "csrc/numerics/host_device.h"

namespace softmax_ext {

template <typename Lane>
inline constexpr Lane kInfinity = static_cast<Lane>(__builtin_huge_val());
template <typename Lane>
inline constexpr Lane kNaN = static_cast<Lane>(__builtin_nan(""));

SOFTMAX_EXT_HOST_DEVICE float exponential(float x) { return ::expf(x); }
SOFTMAX_EXT_HOST_DEVICE double exponential(double x) { return ::exp(x); }
SOFTMAX_EXT_HOST_DEVICE float exponential_minus_1(float x) { return ::expm1f(x); }
SOFTMAX_EXT_HOST_DEVICE double exponential_minus_1(double x) { return ::expm1(x); }
SOFTMAX_EXT_HOST_DEVICE float logarithm_of_1_plus(float x) { return ::log1pf(x); }
SOFTMAX_EXT_HOST_DEVICE double logarithm_of_1_plus(double x) { return ::log1p(x); }

// (logit − max) · scale, the exponent that softmax is made of, with scale = 1/T and the limits
// exact: T = 0 leaves the maxima at 0 and sends everything else to −∞; T = ∞ sends every finite
// logit to 0 and leaves −∞ where it is. The product is NaN in just these cases (0 · ∞ and −∞ · 0)
// and where the logit is NaN.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane scaled_distance(Lane logit, Lane max, Lane scale) {
  const Lane product = (logit - max) * scale;
  const Lane limit = logit == -kInfinity<Lane> ? logit : logit * 0;
  return product == product ? product : limit;
}

// 1/T; NaN, which poisons the row, for a negative or NaN temperature.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane inverse_temperature(Lane temperature) {
  return temperature > 0 ? 1 / temperature : temperature == 0 ? kInfinity<Lane> : kNaN<Lane>;
}

// The factor d(x/T)/dx that gradients carry. It is 0 in both limits, T = 0 and T = ∞, where
// probabilities do not move.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane gradient_scale(Lane scale) {
  return scale == kInfinity<Lane> ? Lane(0) : scale;
}

}  // namespace softmax_ext
