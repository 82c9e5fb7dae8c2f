#include <gtest/gtest.h>

#include "csrc/numerics/entropy.h"
#include "csrc/numerics/masked_softmax.h"
#include "tests/cpp/numerics/reference.h"

namespace softmax_ext {
namespace {

using reference::kFloatUnit;
using reference::kInf;
using reference::kNan;

// The summary of a row, in chunks as a walker takes it.
template <typename Operator, typename T>
auto summary_of(const Operator& op, const std::vector<T>& row, int chunk = 7) {
  auto summary = op.empty();
  for (size_t begin = 0; begin < row.size(); begin += chunk) {
    const int count = static_cast<int>(std::min<size_t>(chunk, row.size() - begin));
    summary = op.merge(summary, op.summarize(row.data() + begin, count));
  }
  return summary;
}

float entropy(const std::vector<float>& row, float temperature = 1, int chunk = 7) {
  const EntropyForward<float, double> op{{{inverse_temperature(temperature)}}};
  return op.result(summary_of(op, row, chunk));
}

std::vector<float> gradient(
    const std::vector<float>& row, float grad = 1, float temperature = 1, int chunk = 7) {
  const EntropyBackward<float, double> op{{{inverse_temperature(temperature)}}, grad};
  const auto constants = op.constants(summary_of(op, row, chunk));
  std::vector<float> outputs;
  for (const float logit : row) outputs.push_back(op.map(logit, constants));
  return outputs;
}

// In long double: H and Σ p·D·(1 + D), which bounds what the rounding of terms costs.
struct Reference {
  long double entropy = 0, mean_distance = 0, spread = 0;
  std::vector<long double> probs, distances;

  Reference(const std::vector<float>& row, double temperature) {
    probs = reference::softmax(row, temperature);
    for (const long double value : reference::shifted(row, temperature))
      distances.push_back(-value);
    for (size_t j = 0; j < row.size(); ++j) {
      if (probs[j] == 0) continue;
      mean_distance += probs[j] * distances[j];
      spread += probs[j] * (1 + distances[j]) * (1 + distances[j]);
    }
    entropy = mean_distance + reference::log_sum(row, temperature);
  }
};

const float kTemperatures[] = {1, 0.3f, 2.5f};

TEST(EntropyForward, IsWithinItsErrorBound) {
  for (const float temperature : kTemperatures)
    for (const float deviation : {0.001f, 0.1f, 1.f, 30.f}) {
      const auto row = reference::normal_logits(200, deviation);
      const Reference expected(row, temperature);
      // Terms are off by a relative 4 u (1 + D), whose mean is not above the spread.
      const double bound = 4 * kFloatUnit * static_cast<double>(expected.entropy + expected.spread);
      EXPECT_NEAR(entropy(row, temperature), static_cast<double>(expected.entropy), bound)
          << "T " << temperature << ", deviation " << deviation;
    }
}

TEST(EntropyForward, KeepsItsRelativeAccuracyWhereOneClassIsNearlySure) {
  for (const float gap : {10.f, 20.f, 40.f, 80.f}) {
    const double rest = std::exp(-double(gap));
    const double expected = std::log1p(rest) + rest / (1 + rest) * gap;
    for (const int chunk : {1, 2})
      EXPECT_NEAR(entropy({0, -gap}, 1, chunk) / expected, 1, 4 * kFloatUnit * (1 + gap));
  }
}

TEST(EntropyForward, OfAlikeLogitsIsTheLogOfTheirNumber) {
  EXPECT_FLOAT_EQ(entropy(std::vector<float>(1000, 3.f)), std::log(1000.f));
  EXPECT_EQ(entropy({5}), 0);
  // Σ p D of logits that differ by little is of first order in them, H of second.
  EXPECT_NEAR(entropy({1e-3f, 0, -1e-3f, 0}), std::log(4.0) - 2.5e-7, 2 * kFloatUnit);
}

TEST(EntropyForward, LeavesOutLogitsOfMinusInfinity) {
  for (const int chunk : {1, 2, 7}) {
    EXPECT_FLOAT_EQ(entropy({-kInf, 2, -kInf, 1, -kInf}, 1, chunk), entropy({2, 1}));
    EXPECT_EQ(entropy({-kInf, 2}, 1, chunk), 0);
  }
}

TEST(EntropyForward, TakesTheLimitsOfTheTemperature) {
  for (const int chunk : {1, 7}) {
    EXPECT_FLOAT_EQ(entropy({2, 1, 2, -kInf, 2}, 0, chunk), std::log(3.f));
    EXPECT_FLOAT_EQ(entropy({3e38f, -3e38f, -kInf, 0}, kInf, chunk), std::log(3.f));
    EXPECT_EQ(entropy({3e38f, -3e38f, 0}, 1, chunk), 0);
  }
}

TEST(EntropyForward, OfARowWithoutProbabilitiesIsNaN) {
  for (const auto& row : {
           std::vector<float>{ kNan,     1},
           {    1,  kInf},
           {-kInf, -kInf},
           {-kInf,  kNan}
  })
    for (const int chunk : {1, 7}) EXPECT_TRUE(std::isnan(entropy(row, 1, chunk)));
  EXPECT_TRUE(std::isnan(entropy({1, 2}, -1)));
}

TEST(EntropySummary, MergesToTheSameBitsEitherWay) {
  const auto row = reference::normal_logits(40, 5);
  const EntropyForward<float, double> op{{{1}}};
  for (int split = 1; split < 40; ++split) {
    const auto a = op.summarize(row.data(), split);
    const auto b = op.summarize(row.data() + split, 40 - split);
    const auto ab = op.merge(a, b), ba = op.merge(b, a);
    EXPECT_EQ(ab.max, ba.max);
    EXPECT_EQ(ab.rest, ba.rest);
    EXPECT_EQ(ab.distances, ba.distances);
  }
}

TEST(EntropyBackward, IsWithinItsErrorBound) {
  for (const float temperature : kTemperatures)
    for (const float deviation : {0.001f, 1.f, 30.f}) {
      const auto row = reference::normal_logits(200, deviation);
      const Reference expected(row, temperature);
      const auto values = gradient(row, 3, temperature);
      for (size_t j = 0; j < row.size(); ++j) {
        const long double distance = expected.distances[j], mean = expected.mean_distance;
        const long double scale = 3 * expected.probs[j] / temperature;
        // What a subnormal term loses.
        const double lost = 0x1p-149 * 3 / temperature * double(1 + distance);
        const long double bound =
            8 * kFloatUnit * scale * (1 + distance) * (distance + mean + expected.spread);
        ASSERT_NEAR(values[j], static_cast<double>(scale * (distance - mean)), double(bound) + lost)
            << "T " << temperature << ", deviation " << deviation << ", column " << j;
      }
    }
}

TEST(EntropyBackward, KeepsItsRelativeAccuracyWhereOneClassIsNearlySure) {
  const float gap = 30;
  const double prob = std::exp(-double(gap));  // and 1 to its last bits
  const auto values = gradient({0, -gap});
  EXPECT_NEAR(values[0] / (-prob * gap), 1, 4 * kFloatUnit * (1 + gap));
  EXPECT_NEAR(values[1] / (prob * gap), 1, 4 * kFloatUnit * (1 + gap));
}

TEST(EntropyBackward, IsTheDerivative) {
  std::vector<double> row{0.3, -1.2, 2.0, 0.7, -0.1};
  for (const double temperature : kTemperatures) {
    const EntropyForward<double> forward{{{1 / temperature}}};
    const EntropyBackward<double> backward{{{1 / temperature}}, 2};
    const auto constants = backward.constants(summary_of(backward, row, 2));
    for (double& logit : row) {
      constexpr double kStep = 1e-5;
      const double centre = logit;
      logit = centre + kStep;
      const double above = forward.result(summary_of(forward, row));
      logit = centre - kStep;
      const double below = forward.result(summary_of(forward, row));
      logit = centre;
      EXPECT_NEAR(backward.map(logit, constants), 2 * (above - below) / (2 * kStep), 1e-8);
    }
  }
}

TEST(EntropyBackward, IsZeroAtTheTemperaturesLimitsAndWhereThereIsNoProbability) {
  for (const float temperature : {0.f, kInf})
    for (const float value : gradient({3e38f, 1, 1, -3e38f, -kInf}, 1, temperature))
      EXPECT_EQ(value, 0);
  const auto values = gradient({1, -kInf, 2, -kInf});
  EXPECT_EQ(values[1], 0);
  EXPECT_EQ(values[3], 0);
  EXPECT_EQ(values[0], gradient({1, 2})[0]);
}

TEST(EntropyBackward, OfARowWithoutProbabilitiesIsNaN) {
  for (const auto& row : {
           std::vector<float>{ kNan,     1},
           {    1,  kInf},
           {-kInf, -kInf}
  })
    for (const float value : gradient(row)) EXPECT_TRUE(std::isnan(value));
}

std::vector<float> masked_softmax(const std::vector<float>& row, bool empty_is_zero, float scale) {
  const MaskedSoftmaxForward<float> op{{{scale}}, empty_is_zero};
  const auto constants = op.constants(summary_of(op, row, 2));
  std::vector<float> probs;
  for (const float logit : row) probs.push_back(op.map(logit, constants));
  return probs;
}

TEST(MaskedSoftmaxForward, OfARowOfMinusInfinityIsWhatIsAskedFor) {
  for (const float scale : {1.f, 0.f, kInf}) {
    EXPECT_EQ(masked_softmax({-kInf, -kInf, -kInf}, true, scale), (std::vector<float>{0, 0, 0}));
    for (const float prob : masked_softmax({-kInf, -kInf, -kInf}, false, scale))
      EXPECT_TRUE(std::isnan(prob));
  }
}

TEST(MaskedSoftmaxForward, OfOtherRowsWithoutProbabilitiesIsNaN) {
  for (const auto& row : {
           std::vector<float>{-kInf, kNan},
           {-kInf, kInf}
  })
    for (const float prob : masked_softmax(row, true, 1)) EXPECT_TRUE(std::isnan(prob));
  for (const float prob : masked_softmax({-kInf, -kInf}, true, kNan)) EXPECT_TRUE(std::isnan(prob));
}

}  // namespace
}  // namespace softmax_ext
