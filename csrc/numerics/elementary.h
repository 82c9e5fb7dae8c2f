#pragma once
// The elementary functions that the row operators call, by lane type.

#include <cmath>
#include <limits>

#include "csrc/numerics/host_device.h"

namespace softmax_ext {

template <typename Lane>
inline constexpr Lane kInfinity = static_cast<Lane>(__builtin_huge_val());
template <typename Lane>
inline constexpr Lane kLargest = std::numeric_limits<Lane>::max();
template <typename Lane>
inline constexpr Lane kNaN = static_cast<Lane>(__builtin_nan(""));

// Lanes are numbers, or vectors of numbers of the type L::Scalar.
template <typename L>
struct ScalarOfLanes {
  using Type = L;
};
template <typename L>
requires requires { typename L::Scalar; }
struct ScalarOfLanes<L> {
  using Type = typename L::Scalar;
};
template <typename L>
using ScalarOf = typename ScalarOfLanes<L>::Type;

// Vectors choose lane by lane.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane select(bool condition, Lane a, Lane b) {
  return condition ? a : b;
}

SOFTMAX_EXT_HOST_DEVICE float exponential(float x) { return ::expf(x); }
SOFTMAX_EXT_HOST_DEVICE double exponential(double x) { return ::exp(x); }
SOFTMAX_EXT_HOST_DEVICE float exponential_of_2(float x) { return ::exp2f(x); }
SOFTMAX_EXT_HOST_DEVICE double exponential_of_2(double x) { return ::exp2(x); }
// The same where the result is normal; else 0, or that.
SOFTMAX_EXT_HOST_DEVICE float normal_exponential_of_2(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));  // one instruction
  return result;
#else
  return ::exp2f(x);
#endif
}
SOFTMAX_EXT_HOST_DEVICE double normal_exponential_of_2(double x) { return ::exp2(x); }
SOFTMAX_EXT_HOST_DEVICE float exponential_minus_1(float x) { return ::expm1f(x); }
SOFTMAX_EXT_HOST_DEVICE double exponential_minus_1(double x) { return ::expm1(x); }
SOFTMAX_EXT_HOST_DEVICE float logarithm_of_1_plus(float x) { return ::log1pf(x); }
SOFTMAX_EXT_HOST_DEVICE double logarithm_of_1_plus(double x) { return ::log1p(x); }

// The larger one; a NaN only where both are.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane maximum(Lane a, Lane b) {
#if defined(__CUDA_ARCH__)
  return ::fmax(a, b);  // one instruction
#else
  return b > a || a != a ? b : a;
#endif
}

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

// 2^offset · exp((x − max) · scale) of the elements x of a row, with what they have in common worked
// out once: a subtraction, a product and a power of 2 each. An infinite max becomes the largest
// number of its sign: −inf yields 0 whatever the max, and +inf yields +inf, which can be told from
// NaN.
//
// What is below the smallest normal number may be 0. An offset keeps results further down, at the
// cost of 2^(log2(offset) − 24) in their precision.
template <typename Lane, int offset = 0>
class ShiftedExponential {
 public:
  static constexpr Lane kUnit = Lane(1 << offset);  // exp(0)

  ShiftedExponential() = default;
  SOFTMAX_EXT_HOST_DEVICE ShiftedExponential(Lane max, Lane scale)
      : base_(
            max > kLargest<Lane>    ? kLargest<Lane>
            : max < -kLargest<Lane> ? -kLargest<Lane>
                                    : max),
        factor_(scale * kLog2OfE) {}

  // Not in the limits of the temperature (see scaled_distance), nor for an invalid one.
  SOFTMAX_EXT_HOST_DEVICE bool is_usable() const {
    return factor_ > 0 && factor_ < kInfinity<Lane>;
  }
  SOFTMAX_EXT_HOST_DEVICE Lane operator()(Lane x) const {
    return normal_exponential_of_2((x - base_) * factor_ + Lane(offset));
  }
  // With all that a Lane can hold, and without the offset.
  SOFTMAX_EXT_HOST_DEVICE Lane in_full(Lane x) const {
    return exponential_of_2((x - base_) * factor_);
  }

 private:
  static constexpr Lane kLog2OfE = Lane(1.4426950408889634074);

  Lane base_;
  Lane factor_;
};

// 1/T; NaN, which poisons the row, for a negative or NaN temperature.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane inverse_temperature(Lane temperature) {
  return temperature > 0 ? 1 / temperature : temperature == 0 ? kInfinity<Lane> : kNaN<Lane>;
}

// The factor d(x/T)/dx that gradients carry. It is 0 in both limits, T = 0 and T = ∞, where
// probabilities do not move.
template <typename Lane>
SOFTMAX_EXT_HOST_DEVICE Lane gradient_scale(Lane scale) {
  return select(scale == Lane(kInfinity<ScalarOf<Lane>>), Lane(0), scale);
}

}  // namespace softmax_ext
