#pragma once
// The temperature that minimizes a loss (Guo et al. 2017, arXiv:1706.04599), by Newton's method on
// the inverse temperature b = 1/T.
//
// The loss is convex in b (logit_moments.h), and least where the distance of the targets from their
// row's maximum, which no temperature moves, equals the expected distance E, which falls as b grows.
// Newton's method is applied to log E − log(distance): E may fall by orders of magnitude between the
// bounds, where Newton's steps on the loss itself are far too long or too short. Of logits whose
// gaps are all alike E is close to exp(−b), of gaps of any size close to a power of b: to the right
// the step is made in b and to the left in log b, so that in either case it stops short of the
// minimum, and from there converges quadratically.

#include <cmath>

#include "csrc/numerics/logit_moments.h"

namespace softmax_ext {

struct FittedTemperature {
  double temperature;
  double loss;        // the mean at that temperature
  bool is_clamped;    // whether the loss is least beyond a bound, which the temperature then is
  bool is_converged;  // else the passes were not enough
  int passes;
};

class TemperatureSearch {
 public:
  static constexpr int kMaxPasses = 10;

  TemperatureSearch(double min_temperature, double max_temperature)
      : min_temperature_(min_temperature),
        max_temperature_(max_temperature),
        left_(1 / max_temperature),
        right_(1 / min_temperature) {}

  // `evaluate(b)` returns the LossStatistics at b; their weight is above 0. Statistics that
  // are not finite end the search: their loss is that of the result.
  template <typename Evaluate>
  FittedTemperature run(Evaluate evaluate) {
    const double min = left_, max = right_;
    const double start = min > 1 ? min : max < 1 ? max : 1;
    scale_ = start;
    for (int pass = 1;; ++pass) {
      statistics_ = evaluate(scale_);
      const double distance = statistics_.distance, expected = statistics_.expected_distance;
      if (!std::isfinite(statistics_.loss))
        return {1 / scale_, statistics_.loss, false, false, pass};
      if (distance == 0 && expected == 0) {
        if (scale_ == min) return {1 / start, loss_at(scale_), false, true, pass};
        // Elsewhere it may be flat by rounding, and falls where it was seen to.
        if (is_left_tried_) return {min_temperature_, loss_at(scale_), true, true, pass};
        scale_ = min;
        continue;
      }
      const double excess = std::log(expected / distance);  // of log E: falls through 0
      if (scale_ == max && excess > 0) return {min_temperature_, loss_at(max), true, true, pass};
      if (scale_ == min && excess < 0) return {max_temperature_, loss_at(min), true, true, pass};
      const double newton = newton_step(excess);
      // The error of a Newton step is the square of its length, about.
      const bool is_last = std::abs(newton / scale_ - 1) < kLastStep;
      if (is_last || pass == kMaxPasses) {
        const double scale = is_last ? std::fmin(std::fmax(newton, min), max) : scale_;
        return {1 / scale, loss_at(scale), false, is_last, pass};
      }
      scale_ = guarded(newton, excess);
    }
  }

 private:
  static constexpr double kLastStep = 1e-4;

  double min_temperature_;
  double max_temperature_;
  // The minimum is between these, or beyond one that was not tried yet.
  double left_;
  double right_;
  bool is_left_tried_ = false;
  bool is_right_tried_ = false;
  double scale_ = 1;
  LossStatistics statistics_;

  // The mean loss near the scale that the statistics are of.
  double loss_at(double scale) const {
    const double way = scale - scale_;
    const double slope = statistics_.distance - statistics_.expected_distance;
    return (statistics_.loss + way * (slope + way * statistics_.variance / 2)) / statistics_.weight;
  }

  double newton_step(double excess) const {
    const double slope = statistics_.variance / statistics_.expected_distance;  // of −log E
    return excess > 0 ? scale_ + excess / slope : scale_ * std::exp(excess / (scale_ * slope));
  }

  double guarded(double next, double excess) {
    const bool goes_right = excess > 0;
    (goes_right ? left_ : right_) = scale_;
    (goes_right ? is_left_tried_ : is_right_tried_) = true;
    if (next > left_ && next < right_) return next;
    if (goes_right && !is_right_tried_) return right_;
    if (!goes_right && !is_left_tried_) return left_;
    return std::sqrt(left_ * right_);
  }
};

}  // namespace softmax_ext
