// The draws of the sampling kernel, in every order of threads, beside those of a sorted row in double.

#include <numeric>

#include "csrc/numerics/philox.h"
#include "cuda/sampling.h"
#include "tests/simt/kernels/problem.h"

namespace softmax_ext::cuda {
namespace {

class Sampling : public KernelTest {};

constexpr uint64_t kSeed = 0x123456789abcdef0;
constexpr int64_t kDraws = 3;

struct Options {
  double scale = 1;
  int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
};

// Indices, then log-probabilities.
template <typename T>
std::vector<double> sample(
    const std::vector<T>& logits, int64_t length, const Options& options, int shift = 0) {
  const auto rows = static_cast<int64_t>(logits.size()) / length;
  const TestProblem<T> problem(rows, length);
  const Buffer<T> input(logits, shift);
  const Buffer<int64_t> seed(std::vector<int64_t>{static_cast<int64_t>(kSeed)});
  const Buffer<int64_t> indices(rows * kDraws);
  const Buffer<float> log_probs(rows * kDraws);
  SampleProblem draws{};
  draws.rows = rows;
  draws.length = length;
  draws.type = kElementType<T>;
  draws.logits = problem.rows(input.data());
  draws.scale = options.scale;
  draws.top_k.number = options.top_k;
  draws.top_p.number = options.top_p;
  draws.min_p.number = options.min_p;
  draws.seeds = seed.data();
  draws.rows_per_seed = rows;
  draws.num_samples = kDraws;
  expect_success(launch_sample(draws, indices.data(), log_probs.data()));
  std::vector<double> results;
  for (const int64_t index : indices.read()) results.push_back(static_cast<double>(index));
  for (const float log_prob : log_probs.read()) results.push_back(log_prob);
  return results;
}

// The weights of what is kept, 0 elsewhere, by sorting.
std::vector<double> kept_weights(const std::vector<double>& x, const Options& options) {
  const double max = *std::max_element(x.begin(), x.end());
  std::vector<double> weights, sorted = x;
  for (const double logit : x) weights.push_back(std::exp((logit - max) * options.scale));
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double threshold = -kInf;
  if (0 < options.top_k && options.top_k < static_cast<int64_t>(x.size()))
    threshold = sorted[options.top_k - 1];
  const auto drop_below = [&](double least) {
    for (size_t j = 0; j < x.size(); ++j)
      if (x[j] < least) weights[j] = 0;
  };
  drop_below(threshold);
  if (options.top_p < 1) {
    const double need = options.top_p * std::accumulate(weights.begin(), weights.end(), 0.0);
    double sum = 0;
    for (const double logit : sorted) {
      threshold = logit;
      sum += std::exp((logit - max) * options.scale);
      if (sum >= need) break;
    }
    drop_below(threshold);
  }
  for (double& weight : weights)
    if (options.min_p > 0 && weight < options.min_p) weight = 0;
  return weights;
}

template <typename T>
void expect_draws(
    const std::vector<double>& results,
    const std::vector<T>& logits,
    int64_t length,
    const Options& options) {
  const auto rows = static_cast<int64_t>(logits.size()) / length;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> x(length);
    for (int64_t j = 0; j < length; ++j) x[j] = float(logits[row * length + j]);
    const auto weights = kept_weights(x, options);
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (int64_t i = 0; i < kDraws; ++i) {
      const auto index = static_cast<int64_t>(results[row * kDraws + i]);
      ASSERT_TRUE(0 <= index && index < length) << index;
      ASSERT_GT(weights[index], 0) << "not kept: row " << row << ", column " << index;
      const double below = std::accumulate(weights.begin(), weights.begin() + index, 0.0) / total;
      const double share = weights[index] / total;
      const double u = uniform_of(kSeed, row, i);
      // Up to the rounding of a sum of exponentials.
      constexpr double kError = 16 * 0x1p-24;
      EXPECT_GE(u, below - kError) << "row " << row << ", draw " << i;
      EXPECT_LE(u, below + share + kError) << "row " << row << ", draw " << i;
      EXPECT_NEAR(
          results[(rows + row) * kDraws + i],
          std::log(share),
          64 * 0x1p-24 * (1 - std::log(share)));
    }
  }
}

std::vector<Options> all_options() {
  Options sharp, few, nucleus, likely, all;
  sharp.scale = 2;
  few.top_k = 7;
  nucleus.top_p = 0.8;
  likely.min_p = 0.05;
  all = {0.5, 60, 0.7, 0.02};
  return {Options(), sharp, few, nucleus, likely, all};
}

template <typename T>
void test_draws() {
  for (const int64_t length : {1, 9, 130, 1001, 5000}) {
    const auto logits = normal_values<T>(2 * length, 2, static_cast<unsigned>(length));
    for (const Options& options : all_options()) {
      SCOPED_TRACE(trace<T>(length));
      const auto results = simt::in_every_order([&] { return sample(logits, length, options); });
      expect_draws(results, logits, length, options);
    }
  }
}
TEST_F(Sampling, FollowsTheDistributionFunctionInFloat32) { test_draws<float>(); }
TEST_F(Sampling, FollowsTheDistributionFunctionInBFloat16) { test_draws<bf16>(); }

TEST_F(Sampling, HasTheSameBitsWhereverTheRowLies) {
  const auto logits = normal_values<bf16>(3 * 1001, 2);
  for (const Options& options : all_options()) {
    const auto expected = sample(logits, 1001, options);
    for (const int shift : {1, 3}) EXPECT_EQ(sample(logits, 1001, options, shift), expected);
  }
}

TEST_F(Sampling, MarksRowsWithoutADistributionAndSpoilsNoOther) {
  auto logits = normal_values<float>(5 * 200, 2);
  const auto expected = sample(logits, 200, {});
  logits[200 + 17] = kNan;
  logits[2 * 200 + 199] = kInf;
  std::fill_n(logits.begin() + 3 * 200, 200, -kInf);
  for (const Options& options : all_options()) {
    const auto results = sample(logits, 200, options);
    for (int64_t i = 0; i < 5 * kDraws; ++i)
      EXPECT_EQ(results[i] >= 0, i / kDraws == 0 || i / kDraws == 4) << i;
  }
  const auto results = sample(logits, 200, {});
  for (const int64_t i : {0, 1, 2, 12, 13, 14}) EXPECT_EQ(results[i], expected[i]);
}

TEST_F(Sampling, TakesTheFirstMaximumAtTemperature0AndEveryFiniteOneAtInfinity) {
  std::vector<float> logits(300, -1);
  logits[70] = logits[200] = 5;
  logits[0] = -kInf;
  const auto greedy = sample(logits, 300, {kInfinity<double>});
  for (int64_t i = 0; i < kDraws; ++i) {
    EXPECT_EQ(greedy[i], 70);
    EXPECT_EQ(greedy[kDraws + i], 0);
  }
  const auto flat = sample(logits, 300, {0});
  for (int64_t i = 0; i < kDraws; ++i) {
    EXPECT_EQ(flat[i], 1 + std::floor(299 * uniform_of(kSeed, 0, i)));
    EXPECT_NEAR(flat[kDraws + i], -std::log(299), 1e-6);
  }
}

}  // namespace
}  // namespace softmax_ext::cuda
