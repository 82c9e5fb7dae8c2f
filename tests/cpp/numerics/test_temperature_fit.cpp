#include <gtest/gtest.h>

#include "csrc/numerics/temperature_fit.h"
#include "tests/cpp/numerics/reference.h"

namespace softmax_ext {
namespace {

using reference::kInf;
using reference::kNan;
using Logits = std::vector<float>;

LogitMoments<float> moments_of(const float* logits, int count, float scale) {
  LogitMoments<float> moments{summarize_logits<double>(logits, count, scale), 0, 0};
  for (int j = 0; j < count; ++j) {
    const double distance = double(logits[j]) - moments.summary.max;
    const double term = std::exp(distance * scale);
    if (term == 0) continue;
    moments.first += term * distance;
    moments.second += term * distance * distance;
  }
  return moments;
}

LossStatistics statistics_of(const Logits& logits, int target, float scale) {
  const int count = static_cast<int>(logits.size());
  return statistics_of_row(moments_of(logits.data(), count, scale), logits[target], scale, 1);
}

TEST(LogitMoments, GiveTheLossAndItsDerivatives) {
  const auto loss = [](const Logits& logits, int target, long double scale) {
    long double sum = 0;
    for (const float logit : logits) sum += std::exp(scale * (logit - logits[target]));
    return std::log(sum);
  };
  for (const float deviation : {0.1f, 1.f, 10.f})
    for (const float scale : {0.25f, 1.f, 4.f}) {
      const auto logits = reference::normal_logits(30, deviation);
      const auto actual = statistics_of(logits, 7, scale);
      const long double way = 1e-4L * scale;
      const long double below = loss(logits, 7, scale - way), above = loss(logits, 7, scale + way);
      const long double here = loss(logits, 7, scale);
      const double slope = static_cast<double>((above - below) / (2 * way));
      const double curvature = static_cast<double>((above - 2 * here + below) / (way * way));
      EXPECT_NEAR(actual.loss, static_cast<double>(here), 1e-6 * (1 + std::abs(actual.loss)));
      EXPECT_NEAR(actual.distance - actual.expected_distance, slope, 1e-5 * deviation);
      EXPECT_NEAR(actual.variance, curvature, 1e-4 * (deviation * deviation));
    }
}

TEST(LogitMoments, MergeToThoseOfTheWhole) {
  for (const float offset : {0.f, 3.f, -50.f, 1e4f, -kInf}) {
    auto logits = reference::normal_logits(40, 2);
    for (int j = 20; j < 40; ++j) logits[j] += offset;
    const auto a = moments_of(logits.data(), 20, 0.5f), b = moments_of(&logits[20], 20, 0.5f);
    const auto whole = moments_of(logits.data(), 40, 0.5f);
    for (const auto& merged : {merge(a, b, 0.5f), merge(b, a, 0.5f)}) {
      EXPECT_EQ(merged.summary.max, whole.summary.max);
      EXPECT_NEAR(merged.summary.rest, whole.summary.rest, 1e-6 * whole.summary.sum());
      EXPECT_NEAR(merged.first, whole.first, 1e-6 * std::abs(whole.first));
      EXPECT_NEAR(merged.second, whole.second, 1e-6 * whole.second);
    }
  }
}

TEST(LogitMoments, OfNothingChangeNothing) {
  const auto logits = reference::normal_logits(9, 2);
  const auto moments = moments_of(logits.data(), 9, 1);
  const auto nothing = LogitMoments<float>::empty();
  for (const auto& merged : {merge(moments, nothing, 1.f), merge(nothing, moments, 1.f)}) {
    EXPECT_EQ(merged.first, moments.first);
    EXPECT_EQ(merged.second, moments.second);
  }
  EXPECT_EQ(merge(nothing, nothing, 1.f).second, 0);
}

TEST(LogitMoments, WhatIsInfinitelyFarAddsNothing) {
  const auto with = statistics_of({1, -kInf, 0, -3e38f}, 2, 1),
             without = statistics_of({1, 0}, 1, 1);
  EXPECT_EQ(with.loss, without.loss);
  EXPECT_EQ(with.expected_distance, without.expected_distance);
  EXPECT_EQ(with.variance, without.variance);
}

TEST(LogitMoments, OfARowWithoutProbabilitiesAreNaN) {
  for (const auto& logits : {
           Logits{ kNan,     0},
           Logits{    0,  kNan},
           Logits{ kInf,     0},
           Logits{-kInf, -kInf}
  }) {
    EXPECT_TRUE(std::isnan(statistics_of(logits, 0, 1).loss));
    EXPECT_TRUE(std::isnan(statistics_of(logits, 0, 1).expected_distance));
  }
}

// Rows of logits, and the search over their statistics.
struct Data {
  std::vector<Logits> rows;
  std::vector<int> targets;

  LossStatistics at(double scale) const {
    LossStatistics sum;
    for (size_t row = 0; row < rows.size(); ++row)
      sum += statistics_of(rows[row], targets[row], static_cast<float>(scale));
    return sum;
  }
  FittedTemperature fit(double min = 0.05, double max = 20) const {
    return TemperatureSearch(min, max).run([&](double scale) { return at(scale); });
  }
};

// By bisection of the slope.
double best_temperature(const Data& data) {
  double left = 0.05, right = 20;
  for (int i = 0; i < 100; ++i) {
    const double middle = std::sqrt(left * right);
    const auto statistics = data.at(middle);
    (statistics.distance < statistics.expected_distance ? left : right) = middle;
  }
  return 1 / left;
}

// Logits whose best temperature is near `temperature`.
Data data_of(double temperature, float deviation, int classes, unsigned seed) {
  Data data;
  std::mt19937 generator(seed);
  for (unsigned row = 0; row < 300; ++row) {
    auto logits = reference::normal_logits(classes, deviation, 1000 * seed + row);
    const auto probs = reference::softmax(logits);
    std::discrete_distribution<int> draw(probs.begin(), probs.end());
    data.targets.push_back(draw(generator));
    for (float& logit : logits) logit *= static_cast<float>(temperature);
    data.rows.push_back(logits);
  }
  return data;
}

TEST(TemperatureSearch, FindsTheTemperatureOfTheLeastLossInTenPasses) {
  for (const double temperature : {0.06, 0.2, 1.0, 1.8, 5.0, 19.0})
    for (const float deviation : {0.5f, 3.f, 30.f})
      for (const int classes : {2, 10, 100}) {
        const auto data = data_of(temperature, deviation, classes, 1);
        const auto fit = data.fit();
        const double expected = best_temperature(data);
        EXPECT_TRUE(fit.is_converged);
        EXPECT_LE(fit.passes, TemperatureSearch::kMaxPasses);
        EXPECT_NEAR(fit.temperature, expected, 1e-4);
        const auto hot = data.at(0.05), cold = data.at(20);
        EXPECT_EQ(
            fit.is_clamped,
            hot.expected_distance < hot.distance || cold.expected_distance > cold.distance);
        EXPECT_NEAR(fit.loss, data.at(1 / fit.temperature).loss / 300, 1e-7 * (1 + fit.loss));
      }
}

TEST(TemperatureSearch, ClampsWhereEveryTargetIsTheLargestLogitOfItsRow) {
  for (const float gap : {0.01f, 1.f, 100.f, 1000.f, 1e6f}) {
    const auto fit = Data{
        {{gap, 0}, {0, gap}},
        {       0,        1}
    }.fit();
    // Beyond 20 · 745 the loss of a row is 0 at every temperature.
    EXPECT_EQ(fit.is_clamped, gap < 2e4f);
    EXPECT_EQ(fit.temperature, gap < 2e4f ? 0.05 : 1);
  }
}

TEST(TemperatureSearch, ClampsWhereTheLogitsAreWrong) {
  for (const float gap : {0.01f, 1.f, 100.f, 1e6f, 1e30f}) {
    const auto fit = Data{
        {{gap, 0}, {0, gap}, {gap, 0}},
        {       1,        0,        0}
    }.fit();
    EXPECT_TRUE(fit.is_clamped);
    EXPECT_EQ(fit.temperature, 20);
    EXPECT_LE(fit.passes, TemperatureSearch::kMaxPasses);
  }
}

TEST(TemperatureSearch, LeavesTheTemperatureWhereItDoesNotMatter) {
  for (const auto& data : {
           Data{{{3, 3, 3}, {0, 0, 0}}, {0, 2}},
           Data{        {{1}, {1e30f}}, {0, 0}}
  }) {
    const auto fit = data.fit();
    EXPECT_EQ(fit.temperature, 1);
    EXPECT_FALSE(fit.is_clamped);
    EXPECT_EQ(data.fit(2, 5).temperature, 2);
    EXPECT_EQ(data.fit(0.1, 0.5).temperature, 0.5);
  }
}

TEST(TemperatureSearch, StaysBetweenBounds) {
  const auto data = data_of(1.8, 3, 10, 2);
  const double best = best_temperature(data);
  EXPECT_NEAR(data.fit(1.5, 2.5).temperature, best, 1e-4);
  EXPECT_NEAR(data.fit(0.001, 1e6).temperature, best, 1e-4);
  EXPECT_EQ(data.fit(2.5, 20).temperature, 2.5);
  EXPECT_TRUE(data.fit(2.5, 20).is_clamped);
  EXPECT_EQ(data.fit(0.05, 0.7).temperature, 0.7);
  EXPECT_EQ(data.fit(3, 3).temperature, 3);
}

TEST(TemperatureSearch, StopsAtALossThatIsNotFinite) {
  EXPECT_TRUE(std::isnan(Data{{{kNan, 0}}, {0}}.fit().loss));
  const auto fit = Data{{{-kInf, 0}}, {0}}.fit();
  EXPECT_EQ(fit.loss, kInf);
  EXPECT_EQ(fit.passes, 1);
}

TEST(TemperatureSearch, EndsAfterTenPassesWhereNothingConverges) {
  // No row has this slope: it says to go half of the way, whatever the scale.
  const auto fit = TemperatureSearch(1e-30, 1e30).run([](double scale) {
    return LossStatistics{1, 1, 1, scale < 1e20 ? 2.0 : 0.5, 1e-3};
  });
  EXPECT_FALSE(fit.is_converged);
  EXPECT_EQ(fit.passes, TemperatureSearch::kMaxPasses);
}

}  // namespace
}  // namespace softmax_ext
