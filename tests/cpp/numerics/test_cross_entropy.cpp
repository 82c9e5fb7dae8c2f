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

}  // namespace
}  // namespace softmax_ext
