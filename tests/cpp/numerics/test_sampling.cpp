#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "csrc/numerics/sampling.h"
#include "tests/cpp/numerics/reference.h"

namespace softmax_ext {
namespace {

template <typename Lane>
class Keys : public testing::Test {};
using LaneTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(Keys, LaneTypes);

TYPED_TEST(Keys, AreInTheOrderOfTheirValuesAndYieldThem) {
  const TypeParam tiny = std::numeric_limits<TypeParam>::denorm_min();
  const std::vector<TypeParam> values{
      -kInfinity<TypeParam>,
      -kLargest<TypeParam>,
      -1,
      -tiny,
      0,
      tiny,
      1,
      kLargest<TypeParam>,
      kInfinity<TypeParam>};
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(value_of_key<TypeParam>(ordered_key(values[i])), values[i]);
    if (i > 0) EXPECT_LT(ordered_key(values[i - 1]), ordered_key(values[i]));
  }
}

TYPED_TEST(Keys, OfBothZerosAreEqual) {
  EXPECT_EQ(ordered_key(TypeParam(-0.0)), ordered_key(TypeParam(0.0)));
}

TYPED_TEST(Keys, NextToEachOtherAreOfNeighbours) {
  const TypeParam next = std::nextafter(TypeParam(3), TypeParam(4));
  EXPECT_EQ(value_of_key<TypeParam>(ordered_key(TypeParam(3)) + 1), next);
}

// By sorting: the largest value that with all no smaller ones weighs `need`.
template <typename Lane>
Lane threshold_by_sort(
    const std::vector<Lane>& values, const std::vector<Lane>& weights, double need) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
  double sum = 0;
  for (const int i : order) {
    sum += static_cast<double>(weights[i]);
    if (sum >= need) return values[i];
  }
  return values[order.back()];
}

TYPED_TEST(Keys, OfTheThresholdAreThoseOfASort) {
  using Lane = TypeParam;
  std::mt19937 generator(1);
  std::normal_distribution<Lane> normal(0, 3);
  for (const int length : {1, 2, 3, 10, 300, 5000}) {
    for (const bool has_ties : {false, true}) {
      std::vector<Lane> values(length), weights(length), ones(length, 1);
      for (Lane& value : values)
        value = has_ties ? std::round(normal(generator)) : normal(generator);
      for (int i = 0; i < length; ++i) weights[i] = std::exp(values[i] / 2);
      const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (const double share : {1e-300, 0.001, 0.1, 0.5, 0.9, 0.999}) {
        // A copy for each, as they are overwritten.
        auto copy = values;
        auto of_copy = weights;
        EXPECT_EQ(
            radix_select(copy.data(), of_copy.data(), length, 0.0, share * total),
            threshold_by_sort(values, weights, share * total))
            << length << ", " << share;
        copy = values;
        const double count = std::max(1.0, std::ceil(share * length));
        EXPECT_EQ(
            radix_select<Lane>(copy.data(), nullptr, length, 0.0, count),
            threshold_by_sort(values, ones, count))
            << length << ", " << count;
      }
    }
  }
}

TYPED_TEST(Keys, TakeTheLowestValueWhereRoundingLeavesTheNeedOutOfReach) {
  TypeParam values[] = {3, 1, 2};
  TypeParam weights[] = {1, 1, 1};
  EXPECT_EQ(radix_select(values, weights, 3, 0.0, 3.0000001), 1);
}

TYPED_TEST(Keys, OutsideTheRangeOfASearchAreInNoBin) {
  using Lane = TypeParam;
  const auto lowest = ordered_key(-kLargest<Lane>);
  RadixSearch<Lane, 3> search(lowest, ordered_key(Lane(5)), 0, 1);
  EXPECT_EQ(search.bin(lowest), 0u);
  EXPECT_GE(search.bin(ordered_key(-kInfinity<Lane>)), 8u);
}

TYPED_TEST(Keys, CountWhatIsAboveThemAll) {
  TypeParam values[] = {3, 1, 2};
  EXPECT_EQ(radix_select<TypeParam>(values, nullptr, 3, 10.0, 12.0), 2);
}

TYPED_TEST(Keys, OfMinPAreTheLeastThatReachIt) {
  using Lane = TypeParam;
  for (const double scale : {0.25, 1.0, 3.0})
    for (const double min_p : {1e-300, 1e-9, 0.1, 0.5, 1.0})
      for (const Lane max : {Lane(-1000), Lane(0), Lane(2.5), Lane(1e30)}) {
        const Lane threshold = min_p_threshold(max, scale, min_p);
        const auto reaches = [&](Lane logit) {
          return (double(logit) - double(max)) * scale >= std::log(min_p);
        };
        EXPECT_LE(threshold, max);
        EXPECT_TRUE(reaches(threshold));
        EXPECT_FALSE(reaches(std::nextafter(threshold, -kInfinity<Lane>)));
      }
  EXPECT_EQ(min_p_threshold<Lane>(5, 1.0, 1.0), Lane(5));
  EXPECT_EQ(min_p_threshold<Lane>(5, 0.0, 0.5), -kLargest<Lane>);  // T = ∞: all are as likely
}

TEST(CdfSearch, FindsTheFirstWeightAtWhichTheSumExceedsTheTarget) {
  const std::vector<double> weights{0, 2, 0, 1, 3, 0};
  const auto found = [&](double target) {
    CdfSearch search(target);
    for (size_t i = 0; i < weights.size(); ++i)
      if (search.add(static_cast<int64_t>(i), weights[i])) break;
    return search;
  };
  EXPECT_EQ(found(0).index(), 1);
  EXPECT_EQ(found(1.5).index(), 1);
  EXPECT_EQ(found(1.5).rest(), 1.5);
  EXPECT_EQ(found(2).index(), 3);
  EXPECT_EQ(found(2.25).rest(), 0.25);
  EXPECT_EQ(found(3).index(), 4);
  // A target that rounding has put out of reach yields the last one that has a weight.
  EXPECT_EQ(found(6).index(), 4);
}

TEST(CdfSearch, FindsNothingAmongWeightsOf0) {
  CdfSearch search(0);
  EXPECT_FALSE(search.add(0, 0));
  EXPECT_EQ(search.index(), -1);
}

TEST(SamplingOptions, AreValidUnlessNaNOrBelowTheirRange) {
  const double nan = reference::kNan;
  EXPECT_TRUE((SamplingOptions{1, 0, 1, 0}.is_valid()));
  EXPECT_TRUE((SamplingOptions{kInfinity<double>, -5, 0, -1}.is_valid()));
  EXPECT_FALSE((SamplingOptions{nan, 0, 1, 0}.is_valid()));
  EXPECT_FALSE((SamplingOptions{-1, 0, 1, 0}.is_valid()));
  EXPECT_FALSE((SamplingOptions{1, 0, nan, 0}.is_valid()));
  EXPECT_FALSE((SamplingOptions{1, 0, -0.1, 0}.is_valid()));
  EXPECT_FALSE((SamplingOptions{1, 0, 1, nan}.is_valid()));
  EXPECT_FALSE((SamplingOptions{1, 0, 1, 1.1}.is_valid()));
}

}  // namespace
}  // namespace softmax_ext
