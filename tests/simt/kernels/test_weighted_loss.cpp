// The loss with options, at lengths on both sides of every bound of its mappings and in every order of
// threads, against the formula of csrc/losses.h in double.

#include "tests/simt/kernels/problem.h"
#include "tests/simt/reports.h"

namespace softmax_ext::cuda {
namespace {

class WeightedLossKernels : public KernelTest {};

// Up to 32 a thread has a row, up to 1,024 a warp, beyond a block.
const std::vector<int64_t> kLengths{1, 2, 7, 8, 9, 31, 32, 33, 100, 1023, 1024, 1025, 2048, 3001};

struct Options {
  bool has_probabilities = false;
  bool has_weights = false;
  double label_smoothing = 0;
  double softcap = 0;
  double z_loss = 0;
  double temperature = 1;
};

std::vector<Options> all_options() {
  const Options all{
      .has_weights = true, .label_smoothing = 0.2, .softcap = 5, .z_loss = 0.01, .temperature = 2};
  Options of_probabilities = all;
  of_probabilities.has_probabilities = true;
  const Options weights{.has_weights = true};
  const Options smoothing{.label_smoothing = 0.1};
  const Options probabilities{.has_probabilities = true};
  const Options scaled{.softcap = 3, .z_loss = 0.1, .temperature = 0.7};
  return {weights, smoothing, probabilities, scaled, all, of_probabilities};
}

// Rows outer × length × inner, and what goes into their losses.
template <typename T>
struct Inputs {
  int64_t outer, length, inner;
  Options options;
  std::vector<T> logits;
  std::vector<int64_t> classes;
  std::vector<float> probabilities;
  std::vector<float> weights;
  std::vector<float> grads;
  std::vector<float> grad_logsumexps;

  Inputs(int64_t outer, int64_t length, int64_t inner, const Options& options)
      : outer(outer),
        length(length),
        inner(inner),
        options(options),
        logits(normal_values<T>(outer * length * inner)),
        probabilities(normal_values<float>(outer * length * inner, 1, 2)),
        weights(normal_values<float>(length, 1, 3)),
        grads(normal_values<float>(rows(), 1, 4)),
        grad_logsumexps(normal_values<float>(rows(), 1, 5)) {
    for (int64_t row = 0; row < rows(); ++row) classes.push_back((row * 7919 + 3) % length);
    if (rows() > 1) classes[1] = -100;
    for (float& p : probabilities) p = std::abs(p) / static_cast<float>(length);
    for (float& w : weights) w = std::abs(w) + 0.1f;
  }
  int64_t rows() const { return outer * inner; }
  int64_t index(int64_t row, int64_t j) const {
    return (row / inner * length + j) * inner + row % inner;
  }
  bool is_ignored(int64_t row) const { return !options.has_probabilities && classes[row] == -100; }
};

// Of a row, in double.
struct Expected {
  double loss = 0;
  double logsumexp = 0;
  std::vector<double> gradient;
  double largest = 0;  // of what it is a sum of
};

template <typename T>
Expected expected_row(const Inputs<T>& in, int64_t row, bool has_grad_logsumexp) {
  const Options& options = in.options;
  Expected expected{.gradient = std::vector<double>(in.length)};
  if (in.is_ignored(row)) return expected;
  std::vector<double> capped(in.length), q(in.length);
  double max = -kInf;
  for (int64_t j = 0; j < in.length; ++j) {
    const double x = float(in.logits[in.index(row, j)]);
    capped[j] = options.softcap == 0 ? x : options.softcap * std::tanh(x / options.softcap);
    max = std::max(max, capped[j] / options.temperature);
  }
  double sum = 0, total = 0;
  for (int64_t j = 0; j < in.length; ++j) sum += std::exp(capped[j] / options.temperature - max);
  const double lse = max + std::log(sum);
  const double e = options.label_smoothing;
  for (int64_t j = 0; j < in.length; ++j) {
    const double target = options.has_probabilities ? in.probabilities[in.index(row, j)]
                                                    : double(in.classes[row] == j);
    q[j] = (options.has_weights ? in.weights[j] : 1) * (target * (1 - e) + e / double(in.length));
    expected.loss += q[j] * (lse - capped[j] / options.temperature);
    expected.largest += std::abs(q[j] * capped[j] / options.temperature) + std::abs(q[j] * lse);
    total += q[j];
  }
  expected.loss += options.z_loss * lse * lse;
  expected.logsumexp = lse;
  const double grad = in.grads[row];
  const double of_lse =
      (has_grad_logsumexp ? in.grad_logsumexps[row] : 0) + 2 * options.z_loss * lse * grad;
  for (int64_t j = 0; j < in.length; ++j) {
    const double p = std::exp(capped[j] / options.temperature - lse);
    const double slope =
        options.softcap == 0 ? 1 : 1 - capped[j] * capped[j] / (options.softcap * options.softcap);
    expected.gradient[j] =
        ((grad * total + of_lse) * p - grad * q[j]) / options.temperature * slope;
  }
  return expected;
}

enum class Way { forward, fresh, in_place, backward };

// Losses, maxima, log-sums and log-sum-exps of the rows, and the gradient.
template <typename T>
struct Outcome {
  std::vector<float> rows;
  std::vector<T> gradient;
};

template <typename T>
Outcome<T> run(const Inputs<T>& in, Way way, const std::vector<float>& saved = {}) {
  TestProblem<T> problem(in.outer, in.length, in.inner);
  problem.temperatures.scale = 1 / in.options.temperature;
  TestProblem<float> of_floats(in.outer, in.length, in.inner);
  const Buffer<T> logits(in.logits);
  const Buffer<int64_t> classes(in.classes);
  const Buffer<float> probabilities(in.probabilities);
  const Buffer<float> weights(in.weights);
  double sum = 0;
  for (const float weight : in.weights) sum += weight;
  const Buffer<float> weights_sum(std::vector<float>{static_cast<float>(sum)});
  const Buffer<float> grads(in.grads);
  const Buffer<float> grad_logsumexps(in.grad_logsumexps);
  const Buffer<float> results(saved.empty() ? std::vector<float>(4 * in.rows()) : saved);
  const Buffer<T> gradient(in.logits.size());
  const Options& options = in.options;
  const WeightedLoss loss{
      .classes = {options.has_probabilities ? nullptr : classes.data(), -100},
      .probabilities = options.has_probabilities ? of_floats.rows(probabilities.data())
                                                 : StridedRows{ nullptr,   {},                                                   0},
      .weights = options.has_weights ? weights.data() : nullptr,
      .weights_sum = weights_sum.data(),
      .label_smoothing = options.label_smoothing,
      .all_classes = in.length,
      .softcap = options.softcap,
      .z_loss = options.z_loss,
      .is_part = false
  };
  float* const data = results.data();
  const CrossEntropyRows rows{data, data + in.rows(), data + 2 * in.rows()};
  T* const target = way == Way::in_place ? logits.data() : gradient.data();
  const auto of_logits = problem.rows(logits.data());
  if (way == Way::backward)
    expect_success(launch_weighted_loss_backward(
        problem,
        of_logits,
        loss,
        rows,
        {
            {          grads.data(), 1},
            {grad_logsumexps.data(), 1}
    },
        gradient.data()));
  else
    expect_success(launch_weighted_loss(
        problem,
        of_logits,
        loss,
        {
            rows, data + 3 * in.rows()
    },
        {{grads.data(), 1}, {nullptr, 0}},
        way == Way::forward ? nullptr : target));
  return {results.read(), way == Way::in_place ? logits.read() : gradient.read()};
}

template <typename T>
void expect_gradient(const Inputs<T>& in, const std::vector<T>& gradient, bool has_logsumexp) {
  for (int64_t row = 0; row < in.rows(); ++row) {
    const Expected expected = expected_row(in, row, has_logsumexp);
    for (int64_t j = 0; j < in.length; ++j) {
      const double value = float(gradient[in.index(row, j)]);
      if (in.is_ignored(row)) {
        ASSERT_EQ(value, 0);
        continue;
      }
      const double error =
          kUnit<T> * std::abs(expected.gradient[j]) + 256 * kUnit<float> * (1 + expected.largest);
      ASSERT_NEAR(value, expected.gradient[j], error) << "row " << row << ", column " << j;
    }
  }
}

template <typename T>
void test_options(int64_t outer, int64_t length, int64_t inner, const Options& options) {
  SCOPED_TRACE(trace<T>(length, outer * inner));
  const Inputs<T> in(outer, length, inner, options);
  const auto rows = simt::in_every_order([&] { return run(in, Way::forward).rows; });
  for (int64_t row = 0; row < in.rows(); ++row) {
    const Expected expected = expected_row(in, row, false);
    const double error = 64 * kUnit<float> * (1 + expected.largest);
    ASSERT_NEAR(rows[row], expected.loss, error) << "row " << row;
    ASSERT_NEAR(rows[3 * in.rows() + row], expected.logsumexp, error) << "row " << row;
  }
  for (const Way way : {Way::fresh, Way::in_place}) {
    const auto gradient = simt::in_every_order([&] { return run(in, way).gradient; });
    expect_gradient(in, gradient, false);
    ASSERT_EQ(run(in, way).rows, rows);
  }
  const auto backward = simt::in_every_order([&] { return run(in, Way::backward, rows).gradient; });
  expect_gradient(in, backward, true);
}

template <typename T>
void test_at_every_bound() {
  for (const int64_t length : kLengths)
    for (const Options& options : all_options()) {
      test_options<T>(length > 1000 ? 2 : 5, length, 1, options);
      if (testing::Test::HasFatalFailure()) return;
    }
}
TEST_F(WeightedLossKernels, EveryBoundInFloat32) { test_at_every_bound<float>(); }
TEST_F(WeightedLossKernels, EveryBoundInBFloat16) { test_at_every_bound<bf16>(); }

TEST_F(WeightedLossKernels, ADimThatIsNotLast) {
  for (const Options& options : all_options()) {
    test_options<float>(2, 21, 3, options);
    test_options<bf16>(2, 100, 33, options);
  }
}

TEST_F(WeightedLossKernels, ATargetOutOfRangeIsReported) {
  Inputs<float> in(1, 5, 1, {.label_smoothing = 0.1});
  for (const int64_t target : {int64_t(5), int64_t(-1)}) {
    in.classes[0] = target;
    EXPECT_TRUE(simt::reports("expected targets in", [&] { run(in, Way::forward); }));
  }
}

TEST_F(WeightedLossKernels, AnIgnoredRowMayHoldAnything) {
  for (const float held : {kNan, kInf, -kInf}) {
    Inputs<float> in(2, 40, 1, {.label_smoothing = 0.1, .z_loss = 0.1});
    for (int64_t j = 0; j < in.length; ++j) in.logits[in.index(1, j)] = held;
    const auto outcome = run(in, Way::fresh);
    EXPECT_EQ(outcome.rows[1], 0);
    for (int64_t j = 0; j < in.length; ++j) EXPECT_EQ(outcome.gradient[in.index(1, j)], 0);
  }
}

// exp(−inf − (−inf)) where what one thread reads is −inf alone; a class that weighs nothing.
TEST_F(WeightedLossKernels, SharesOfMinusInfinityCountAsAbsent) {
  for (const int64_t length : {40, 3001}) {
    Inputs<float> in(1, length, 1, {.has_probabilities = true});
    for (int64_t j = 0; j < length; ++j) {
      if (j == 1 || j == length - 1) continue;
      in.logits[j] = -kInf;
      in.probabilities[j] = 0;
    }
    const auto outcome = run(in, Way::fresh);
    EXPECT_TRUE(std::isfinite(outcome.rows[0]));
    for (int64_t j = 0; j < length; ++j) EXPECT_TRUE(std::isfinite(outcome.gradient[j])) << j;
    in.probabilities[0] = 0.5;
    EXPECT_EQ(run(in, Way::forward).rows[0], kInf);
  }
}

}  // namespace
}  // namespace softmax_ext::cuda
