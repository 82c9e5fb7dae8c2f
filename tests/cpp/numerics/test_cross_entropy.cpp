#include <gtest/gtest.h>

#include "csrc/numerics/cross_entropy.h"
#include "tests/cpp/numerics/reference.h"

namespace softmax_ext {
namespace {

using reference::kFloatUnit;
using reference::kInf;
using reference::kNan;

CrossEntropyRow<float> loss_of(const std::vector<float>& logits, int target) {
  return cross_entropy_row(
      summarize_logits<double>(logits.data(), static_cast<int>(logits.size()), 1.f),
      logits[target]);
}

TEST(CrossEntropyRow, IsTheNegativeLogLikelihood) {
  for (const float deviation : {0.1f, 1.f, 30.f}) {
    const auto logits = reference::normal_logits(100, deviation);
    const auto probs = reference::softmax(logits);
    for (const int target : {0, 17, 99}) {
      const double expected = -std::log(static_cast<double>(probs[target]));
      EXPECT_NEAR(loss_of(logits, target).loss, expected, 4e-7 * std::max(1.0, expected));
    }
  }
}

TEST(CrossEntropyRow, KeepsALossFarBelowOneUnit) {
  EXPECT_NEAR(loss_of({0, -40}, 0).loss, std::exp(-40.0), std::exp(-40.0) * 4 * kFloatUnit);
}

TEST(CrossEntropyRow, OfAMaskedTargetIsInfinite) { EXPECT_EQ(loss_of({0, -kInf}, 1).loss, kInf); }

TEST(CrossEntropyRow, OfAnUndefinedRowIsNaN) {
  for (const auto& logits : {
           std::vector<float>{ kNan,     0},
           {    0,  kNan},
           { kInf,     0},
           {-kInf, -kInf},
           { kInf,  kInf}
  })
    EXPECT_TRUE(std::isnan(loss_of(logits, 0).loss));
}

// At logits near 1e4 a rounded log-sum-exp would be wrong in the fourth digit of every probability.
TEST(CrossEntropyGradient, IsAccurateForLargeLogits) {
  auto logits = reference::normal_logits(50, 3);
  for (float& logit : logits) logit += 1e4f;
  const auto expected = reference::softmax(logits);
  const auto row = loss_of(logits, 7);
  const auto gradient = cross_entropy_gradient(row.max, row.log_sum, 2.f, logits[7]);
  for (const size_t j : {0, 1, 20, 49})
    EXPECT_NEAR(gradient.other_class(logits[j]), 2 * expected[j], 2e-6 * expected[j]);
  EXPECT_NEAR(gradient.true_class, 2 * (expected[7] - 1), 4e-7);
}

TEST(CrossEntropyGradient, OfTheTrueClassDoesNotCancel) {
  for (const float gap : {5.f, 16.f, 40.f}) {
    const std::vector<float> logits{0, -gap};
    const auto row = loss_of(logits, 0);
    const auto gradient = cross_entropy_gradient(row.max, row.log_sum, 1.f, 0.f);
    const double expected = std::expm1(-std::log1p(std::exp(-static_cast<double>(gap))));
    EXPECT_NEAR(gradient.true_class, expected, std::abs(expected) * 8 * kFloatUnit) << gap;
  }
}

TEST(CrossEntropyGradient, OfAMaskedTargetIsFinite) {
  const auto row = loss_of({0, -kInf, 0}, 1);
  const auto gradient = cross_entropy_gradient(row.max, row.log_sum, 1.f, -kInf);
  EXPECT_EQ(gradient.true_class, -1);
  EXPECT_FLOAT_EQ(gradient.other_class(0), 0.5f);
}

// u of the columns of a row in which the distance from the maximum is the column's number.
WeightedSummary<double> weighted_summary(double max, const std::vector<double>& weights) {
  WeightedSummary<double> summary{
      {max, -1},
      0, 0
  };
  for (size_t j = 0; j < weights.size(); ++j) {
    summary.logits.rest += std::exp(-static_cast<double>(j));
    summary.distance -= weights[j] * static_cast<double>(j);
    summary.spread += weights[j];
  }
  return summary;
}

TEST(WeightedSummary, MergesToThatOfTheWhole) {
  const std::vector<double> weights{0.5, 0, 2};
  for (const double shift : {0.0, 3.0, 40.0}) {
    const auto high = weighted_summary(shift, weights), low = weighted_summary(0, weights);
    const auto both = merge(high, low, 0.5);
    EXPECT_EQ(both.logits.max, shift);
    // Those of the lower part are further away by the distance of the maxima.
    EXPECT_NEAR(both.distance, high.distance + low.distance - 2.5 * shift * 0.5, 1e-12);
    EXPECT_EQ(both.spread, 5);
    const auto swapped = merge(low, high, 0.5);
    EXPECT_EQ(both.distance, swapped.distance);
    EXPECT_EQ(both.logits.rest, swapped.logits.rest);
  }
}

TEST(WeightedSummary, OfNothingChangesNothing) {
  const auto part = weighted_summary(2, {1, 1});
  for (const auto& merged :
       {merge(part, WeightedSummary<double>::empty(), 1.0),
        merge(WeightedSummary<double>::empty(), part, 1.0)}) {
    EXPECT_EQ(merged.logits.max, part.logits.max);
    EXPECT_EQ(merged.distance, part.distance);
    EXPECT_EQ(merged.spread, part.spread);
  }
}

// Of a row of three logits, by the formula and by kernels' pieces.
struct WeightedCase {
  std::vector<double> logits{0.3, -1.2, 2.0};
  std::vector<double> spread{0.1, 0.2, 0.1};  // u
  double peak = 0.7;                          // on class 1
  double scale = 0.6;
  double z_loss = 0.05;

  WeightedLossRow<double> row() const {
    WeightedLossRow<double> row{2.0, 0, scale, 0, 0, peak, 0};
    double sum = 0;
    for (size_t j = 0; j < 3; ++j) {
      sum += std::exp((logits[j] - 2) * scale);
      row.spread += spread[j];
      row.distance += spread[j] * (logits[j] - 2) * scale;
    }
    row.log_sum = std::log(sum);
    row.target_distance = (logits[1] - 2) * scale;
    return row;
  }
  double loss() const {
    double sum = 0, result = 0;
    for (const double x : logits) sum += std::exp(x * scale);
    const double lse = std::log(sum);
    for (size_t j = 0; j < 3; ++j)
      result += (spread[j] + (j == 1 ? peak : 0)) * (lse - logits[j] * scale);
    return result + z_loss * lse * lse;
  }
};

TEST(WeightedLossRow, IsTheFormula) {
  const WeightedCase of_row;
  EXPECT_NEAR(of_row.row().loss(of_row.z_loss), of_row.loss(), 1e-14);
}

TEST(WeightedGradient, IsTheDerivative) {
  WeightedCase of_row;
  const auto gradient = weighted_gradient<double>(
      of_row.row(), of_row.scale, of_row.z_loss, 1.5, 0, of_row.spread[1]);
  for (size_t j = 0; j < 3; ++j) {
    constexpr double kStep = 1e-5;
    const double x = of_row.logits[j];
    of_row.logits[j] = x + kStep;
    const double above = of_row.loss();
    of_row.logits[j] = x - kStep;
    const double below = of_row.loss();
    of_row.logits[j] = x;
    const double other =
        std::exp((x - 2) * of_row.scale) * gradient.factor - of_row.spread[j] * gradient.share;
    EXPECT_NEAR(j == 1 ? gradient.true_class : other, 1.5 * (above - below) / (2 * kStep), 1e-8);
  }
}

// Near p = 1 the difference of p and the weight would keep no digit.
TEST(WeightedGradient, OfTheTrueClassDoesNotCancel) {
  const float rest = 1e-6f;
  WeightedLossRow<float> row{0, std::log1p(rest), 1, 0, 0, 1, 0};
  const auto gradient = weighted_gradient<float>(row, 1, 0, 1, 0, 0);
  EXPECT_NEAR(gradient.true_class, -rest, 4 * kFloatUnit * rest + 1e-12f);
}

TEST(WeightedDistance, OfWhatWeighsNothingIsNothing) {
  EXPECT_EQ(weighted_distance(0.f, -kInf), 0);
  EXPECT_EQ(weighted_distance(0.5f, -kInf), -kInf);
}

}  // namespace
}  // namespace softmax_ext
