#include <gtest/gtest.h>

#include "csrc/numerics/row_operators.h"
#include "tests/cpp/numerics/reference.h"

namespace softmax_ext {
namespace {

using reference::kFloatUnit;
using reference::kInf;
using reference::kNan;

// A row through an operator, in chunks as a walker takes it.
template <typename Operator>
auto map_row(
    const Operator& op, const std::vector<typename Operator::Element>& row, int chunk = 7) {
  auto summary = op.empty();
  for (size_t begin = 0; begin < row.size(); begin += chunk) {
    const int count = static_cast<int>(std::min<size_t>(chunk, row.size() - begin));
    summary = op.merge(summary, op.summarize(row.data() + begin, count));
  }
  const auto constants = op.constants(summary);
  std::vector<typename Operator::Output> outputs;
  for (const auto& element : row) outputs.push_back(op.map(element, constants));
  return outputs;
}

const float kTemperatures[] = {1, 0.3f, 2.5f};

TEST(SoftmaxForward, IsWithinItsErrorBound) {
  for (const float temperature : kTemperatures)
    for (const float deviation : {0.1f, 1.f, 30.f}) {
      const auto logits = reference::normal_logits(200, deviation);
      const auto expected = reference::softmax(logits, temperature);
      const auto distance = reference::shifted(logits, temperature);
      const auto probs = map_row(SoftmaxForward<float, double>{{1 / temperature}}, logits);
      for (size_t j = 0; j < probs.size(); ++j) {
        if (expected[j] < std::numeric_limits<float>::min())
          continue;  // the bound is for normal results
        ASSERT_NEAR(
            probs[j] / static_cast<double>(expected[j]), 1, 6 * kFloatUnit * (1 - distance[j]))
            << "T " << temperature << ", deviation " << deviation << ", column " << j;
      }
    }
}

TEST(LogSoftmaxForward, IsAccurateWhereTheProbabilityIsNearlyOne) {
  const auto log_probs = map_row(LogSoftmaxForward<float, double>{{1}}, {0.f, -40.f, -50.f});
  const double rest = std::exp(-40.0) + std::exp(-50.0);
  EXPECT_NEAR(log_probs[0], -rest, rest * 4 * kFloatUnit);
  EXPECT_EQ(log_probs[1], -40);
}

template <typename T>
class Undefined : public testing::Test {};
using Normalizations =
    testing::Types<SoftmaxForward<float>, LogSoftmaxForward<float>, SoftmaxForward<float, double>>;
TYPED_TEST_SUITE(Undefined, Normalizations);

TYPED_TEST(Undefined, RowIsNaNAsAWhole) {
  for (const auto& row : {
           std::vector<float>{ kNan,     1, 2},
           {    1,  kInf, 2},
           { kInf,  kInf  },
           {-kInf, -kInf  },
           { kInf,  kNan  }
  })
    for (const float value : map_row(TypeParam{{1}}, row, /*chunk=*/1))
      EXPECT_TRUE(std::isnan(value));
}

TYPED_TEST(Undefined, TemperaturePoisonsTheRow) {
  for (const float value : map_row(TypeParam{{kNan}}, {1.f, 2.f})) EXPECT_TRUE(std::isnan(value));
}

TEST(SoftmaxForward, AMaskedEntryHasProbabilityZero) {
  const auto probs = map_row(SoftmaxForward<float>{{1}}, {-kInf, 0.f, -kInf, 0.f}, /*chunk=*/1);
  EXPECT_EQ(probs, (std::vector<float>{0, 0.5f, 0, 0.5f}));
}

TEST(SoftmaxForward, ZeroTemperatureIsUniformOverTheMaxima) {
  EXPECT_EQ(
      map_row(SoftmaxForward<float>{{kInf}}, {2.f, 1.9999999f, 2.f, -kInf}),
      (std::vector<float>{.5f, 0, .5f, 0}));
}

TEST(SoftmaxForward, InfiniteTemperatureIsUniformOverTheFiniteLogits) {
  EXPECT_EQ(map_row(SoftmaxForward<float>{{0}}, {3e38f, -3e38f, -kInf, 0.f}, 1)[3], 1.f / 3);
  EXPECT_EQ(map_row(SoftmaxForward<float>{{0}}, {3e38f, -3e38f, -kInf, 0.f}, 1)[2], 0);
}

TEST(LogSoftmaxForward, LimitsOfTheTemperatureAreExact) {
  const float log_half = -std::log(2.f);
  EXPECT_EQ(
      map_row(LogSoftmaxForward<float>{{kInf}}, {2.f, 1.f, 2.f}),
      (std::vector<float>{log_half, -kInf, log_half}));
  EXPECT_EQ(
      map_row(LogSoftmaxForward<float>{{0}}, {9.f, -kInf, 2.f}),
      (std::vector<float>{log_half, -kInf, log_half}));
}

float log_sum_exp(const std::vector<float>& row, float scale = 1) {
  const LogSumExpForward<float, double> op{{scale}};
  return op.result(op.summarize(row.data(), static_cast<int>(row.size())));
}

TEST(LogSumExpForward, HasTheLimitsOfTheFormula) {
  EXPECT_EQ(log_sum_exp({}), -kInf);
  EXPECT_EQ(log_sum_exp({-kInf, -kInf}), -kInf);
  EXPECT_EQ(log_sum_exp({1, kInf, -kInf}), kInf);
  EXPECT_TRUE(std::isnan(log_sum_exp({1, kNan, kInf})));
  EXPECT_EQ(log_sum_exp({5}), 5);
  EXPECT_EQ(log_sum_exp({1e38f, 3e38f}), 3e38f);
}

TEST(LogSumExpForward, DividesByTheTemperature) {
  EXPECT_FLOAT_EQ(log_sum_exp({1, 2}, 2), std::log(std::exp(2.f) + std::exp(4.f)));
  EXPECT_TRUE(std::isnan(log_sum_exp({1, 2}, kInf)));  // no limit at T = 0
  EXPECT_TRUE(std::isnan(log_sum_exp({1, 2}, kNan)));
}

// Backward operators against central differences in double.
template <typename Forward>
std::vector<double> numeric_gradient(
    const Forward& forward, std::vector<double> row, const std::vector<double>& grad) {
  constexpr double kStep = 1e-5;
  std::vector<double> gradient;
  for (double& logit : row) {
    const double centre = logit;
    const auto objective = [&](double at) {
      logit = at;
      double sum = 0;
      const auto outputs = map_row(forward, row);
      for (size_t j = 0; j < outputs.size(); ++j) sum += outputs[j] * grad[j];
      logit = centre;
      return sum;
    };
    gradient.push_back((objective(centre + kStep) - objective(centre - kStep)) / (2 * kStep));
  }
  return gradient;
}

template <typename Forward, typename Backward>
void expect_gradient(double temperature) {
  const std::vector<double> logits{0.3, -1.2, 2.0, 0.7, -0.1};
  const std::vector<double> grad{1.0, -0.5, 0.25, 2.0, -3.0};
  const Forward forward{{1 / temperature}};
  const auto outputs = map_row(forward, logits);
  std::vector<GradientElement<double>> elements;
  for (size_t j = 0; j < grad.size(); ++j) elements.push_back({grad[j], outputs[j]});
  const auto gradient = map_row(Backward{{1 / temperature}}, elements, 2);
  const auto expected = numeric_gradient(forward, logits, grad);
  for (size_t j = 0; j < grad.size(); ++j)
    EXPECT_NEAR(gradient[j], expected[j], 1e-8);  // the step's own error
}

TEST(SoftmaxBackward, IsTheDerivative) {
  for (const double t : kTemperatures)
    expect_gradient<SoftmaxForward<double>, SoftmaxBackward<double>>(t);
}

TEST(LogSoftmaxBackward, IsTheDerivative) {
  for (const double t : kTemperatures)
    expect_gradient<LogSoftmaxForward<double>, LogSoftmaxBackward<double>>(t);
}

TEST(SoftmaxBackward, IsZeroAtTheTemperaturesLimits) {
  const std::vector<GradientElement<float>> elements{
      {1, 0.5f},
      {2, 0.5f},
      {3,    0}
  };
  for (const float scale : {0.f, kInf})
    for (const float value : map_row(SoftmaxBackward<float>{{scale}}, elements))
      EXPECT_EQ(value, 0);
}

TEST(LogSumExpBackward, IsTheSoftmaxTimesTheGradient) {
  const auto logits = reference::normal_logits(9, 2);
  const auto expected = reference::softmax(logits, 0.5);
  const auto gradient = map_row(LogSumExpBackward<float, double>{{2}, 3}, logits);
  for (size_t j = 0; j < logits.size(); ++j)
    EXPECT_NEAR(gradient[j], 3 * 2 * expected[j], 6e-6 * expected[j]);
}

TEST(LogSumExpBackward, OfARowOfMinusInfinityIsZero) {
  EXPECT_EQ(map_row(LogSumExpBackward<float>{{1}, 1}, {-kInf, -kInf}), (std::vector<float>{0, 0}));
}

TEST(LogSumExpBackward, OfARowWithPlusInfinityIsNaNThereAlone) {
  const auto gradient = map_row(LogSumExpBackward<float>{{1}, 1}, {200.f, kInf, -kInf});
  EXPECT_EQ(gradient[0], 0);
  EXPECT_TRUE(std::isnan(gradient[1]));
  EXPECT_EQ(gradient[2], 0);
}

TEST(LogSumExpBackward, OfARowWithNaNIsNaN) {
  for (const float value : map_row(LogSumExpBackward<float>{{1}, 1}, {-kInf, kNan}))
    EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace softmax_ext
