#include <gtest/gtest.h>

#include <bit>
#include <cstdint>

#include "csrc/numerics/softmax_summary.h"
#include "tests/cpp/numerics/reference.h"

namespace softmax_ext {
namespace {

using reference::kFloatUnit;
using reference::kInf;
using reference::kNan;
using Summary = SoftmaxSummary<float>;
using WideSummary = SoftmaxSummary<float, double>;

template <typename Total = float>
auto summarize(const std::vector<float>& logits, float scale = 1) {
  return summarize_logits<Total>(logits.data(), static_cast<int>(logits.size()), scale);
}

bool same_bits(Summary a, Summary b) {
  return std::bit_cast<uint32_t>(a.max) == std::bit_cast<uint32_t>(b.max) &&
         std::bit_cast<uint32_t>(a.rest) == std::bit_cast<uint32_t>(b.rest);
}

TEST(SoftmaxSummary, IsTheMaximumAndTheSumMeasuredFromIt) {
  for (const int length : {1, 2, 3, 31, 512}) {
    const auto logits = reference::normal_logits(length, 3, length);
    const auto summary = summarize<double>(logits);
    EXPECT_EQ(summary.max, *std::max_element(logits.begin(), logits.end()));
    // Each exponential is within 1 ULP, after a subtraction that rounds by u·|x − max|, at most 30
    // here.
    const double expected = static_cast<double>(std::exp(reference::log_sum(logits)));
    EXPECT_NEAR(summary.sum(), expected, expected * 32 * kFloatUnit) << length;
  }
}

TEST(SoftmaxSummary, KeepsWhatIsFarBelowTheMaximumsOwnExponential) {
  const auto summary = summarize({0, -40});
  EXPECT_EQ(summary.sum(), 1);  // the sum cannot hold it
  EXPECT_NEAR(summary.log_sum(), std::exp(-40.0), std::exp(-40.0) * 4 * kFloatUnit);
}

TEST(SoftmaxSummary, CountsTiesOfTheMaximum) {
  const auto summary = summarize({7, 7, 7});
  EXPECT_EQ(summary.max, 7);
  EXPECT_EQ(summary.rest, 2);
}

TEST(SoftmaxSummary, OfNothingChangesNothing) {
  for (const auto& logits : {
           std::vector<float>{     1, 2},
           { -kInf  },
           {  kInf, 1},
           {-1e30f  }
  }) {
    const auto summary = summarize(logits);
    EXPECT_TRUE(same_bits(merge(summary, Summary::empty(), 1.f), summary));
    EXPECT_TRUE(same_bits(merge(Summary::empty(), summary, 1.f), summary));
  }
  EXPECT_TRUE(same_bits(summarize(std::vector<float>{}), Summary::empty()));
}

TEST(SoftmaxSummary, MergeIsBitwiseCommutative) {
  const auto logits = reference::normal_logits(20000, 8);
  for (size_t i = 0; i + 4 < logits.size(); i += 4) {
    const auto a = summarize({logits[i], logits[i + 1]});
    const auto b = summarize({logits[i + 2], logits[i + 3]});
    const auto c =
        summarize({a.max, logits[i + 3] > a.max ? a.max : logits[i + 3]});  // the same maximum as a
    ASSERT_TRUE(same_bits(merge(a, b, 1.f), merge(b, a, 1.f)));
    ASSERT_TRUE(same_bits(merge(a, c, 1.f), merge(c, a, 1.f)));
  }
}

TEST(SoftmaxSummary, MergesInAnyOrder) {
  const auto logits = reference::normal_logits(256, 5);
  const double expected = static_cast<double>(std::exp(reference::log_sum(logits)));
  const auto of = [&](int begin, int end) {
    return summarize<double>(std::vector<float>(logits.begin() + begin, logits.begin() + end));
  };
  auto forward = WideSummary::empty(), backward = WideSummary::empty();
  for (int i = 0; i < 256; i += 16) forward = merge(forward, of(i, i + 16), 1.f);
  for (int i = 240; i >= 0; i -= 16) backward = merge(of(i, i + 16), backward, 1.f);
  EXPECT_NEAR(forward.sum(), expected, expected * 48 * kFloatUnit);
  EXPECT_NEAR(backward.sum(), expected, expected * 48 * kFloatUnit);
}

TEST(SoftmaxSummary, ASliceOfMinusInfinityCountsAsAbsent) {
  const auto masked = summarize({-kInf, -kInf});
  EXPECT_EQ(masked.sum(), 0);
  const auto summary = summarize({1, 0.5f});
  EXPECT_TRUE(same_bits(merge(masked, summary, 1.f), summary));
  EXPECT_TRUE(same_bits(merge(masked, masked, 1.f), Summary::empty()));
}

TEST(SoftmaxSummary, NaNIsNeverLost) {
  for (const auto& logits : {
           std::vector<float>{ kNan},
           { kNan,    1},
           { 1, kNan},
           { -kInf, kNan},
           { kNan, kInf}
  }) {
    const auto summary = summarize(logits);
    EXPECT_TRUE(std::isnan(summary.rest));
    for (const auto& other : {std::vector<float>{1e30f}, {-1e30f}, {-kInf}, {kInf}}) {
      EXPECT_TRUE(std::isnan(merge(summary, summarize(other), 1.f).rest));
      EXPECT_TRUE(std::isnan(merge(summarize(other), summary, 1.f).rest));
    }
  }
}

TEST(SoftmaxSummary, PlusInfinityIsKeptApartFromNaN) {
  for (const auto& logits : {
           std::vector<float>{ kInf},
           { kInf,    1},
           { kInf, kInf},
           { -kInf, kInf},
           { kInf,3e38f}
  }) {
    EXPECT_EQ(summarize(logits).max, kInf);
    EXPECT_FALSE(std::isnan(summarize(logits).rest));
    for (const float other : {1.f, 100.f, -kInf})
      EXPECT_FALSE(std::isnan(merge(summarize(logits), summarize({other}), 1.f).rest));
    EXPECT_FALSE(std::isnan(merge(summarize({kInf}), summarize(logits), 1.f).rest));
  }
}

TEST(SoftmaxSummary, ZeroTemperatureCountsTheMaximaAlone) {
  const auto summary =
      merge(summarize({3, 3, 2.9999998f}, kInf), summarize({3, -kInf}, kInf), kInf);
  EXPECT_EQ(summary.max, 3);
  EXPECT_EQ(summary.sum(), 3);
}

TEST(SoftmaxSummary, InfiniteTemperatureCountsWhatIsNotMinusInfinity) {
  const auto summary =
      merge(summarize({3e38f, -kInf, -3e38f}, 0), summarize({-1e38f, -kInf}, 0), 0.f);
  EXPECT_EQ(summary.sum(), 3);
}

TEST(InverseTemperature, IsNaNForWhatIsNoTemperature) {
  EXPECT_EQ(inverse_temperature(2.f), 0.5f);
  EXPECT_EQ(inverse_temperature(0.f), kInf);
  EXPECT_EQ(inverse_temperature(-0.f), kInf);
  EXPECT_EQ(inverse_temperature(kInf), 0);
  EXPECT_TRUE(std::isnan(inverse_temperature(-1.f)));
  EXPECT_TRUE(std::isnan(inverse_temperature(kNan)));
}

}  // namespace
}  // namespace softmax_ext
