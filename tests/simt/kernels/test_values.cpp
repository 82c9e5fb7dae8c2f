// Values of the kernels at lengths on both sides of every bound of the policy tables, in every
// order of threads, and the bits of a row. Compiled by nvcc too, to run on a device.

#include "tests/simt/kernels/problem.h"

namespace softmax_ext::cuda {
namespace {

class Values : public KernelTest {};
class Bits : public KernelTest {};

// Clusters of 8 begin at 8,192 packs.
constexpr int64_t kLongest = (kOnDevice ? 20'000 : 9000) * 8;

// The error of a probability: a rounding of the result, and those of the exponential, the
// difference and the sum.
template <typename T>
double bound(double prob, double distance) {
  return prob * (kUnit<T> + 8 * kUnit<float> * (1 + distance)) + 1e-38;
}

template <typename T>
void expect_softmax(
    const std::vector<T>& probs, const std::vector<T>& logits, int64_t rows, int64_t length) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* const x = logits.data() + row * length;
    const auto expected = reference_probs(x, length);
    double max = -kInf;
    for (int64_t j = 0; j < length; ++j) max = std::max(max, double(float(x[j])));
    for (int64_t j = 0; j < length; ++j)
      ASSERT_NEAR(
          float(probs[row * length + j]),
          expected[j],
          bound<T>(expected[j], max - double(float(x[j]))))
          << "row " << row << ", column " << j;
  }
}

template <typename T>
void test_softmax() {
  for (const int64_t length : lengths_at_bounds<T>(kLongest)) {
    const int64_t rows = rows_of(length);
    SCOPED_TRACE(trace<T>(length, rows));
    const auto logits = normal_values<T>(rows * length);
    const auto probs = simt::in_every_order([&] { return softmax(logits, rows, length); });
    expect_softmax(probs, logits, rows, length);
    if (testing::Test::HasFatalFailure()) return;
  }
}
TEST_F(Values, SoftmaxAtEveryBoundInFloat32) { test_softmax<float>(); }
TEST_F(Values, SoftmaxAtEveryBoundInBFloat16) { test_softmax<bf16>(); }

template <typename T>
void test_softmax_backward() {
  for (const int64_t length : lengths_at_bounds<T>(kLongest)) {
    const int64_t rows = rows_of(length);
    SCOPED_TRACE(trace<T>(length, rows));
    const auto grads = normal_values<T>(rows * length, 1, 1);
    const auto probs = softmax(normal_values<T>(rows * length), rows, length);
    const auto actual =
        simt::in_every_order([&] { return softmax_backward(grads, probs, rows, length); });
    for (int64_t row = 0; row < rows; ++row) {
      double dot = 0;
      double absolute = 0;
      for (int64_t i = row * length; i < (row + 1) * length; ++i) {
        dot += double(float(grads[i])) * float(probs[i]);
        absolute += std::abs(double(float(grads[i])) * float(probs[i]));
      }
      for (int64_t i = row * length; i < (row + 1) * length; ++i) {
        const double expected = float(probs[i]) * (float(grads[i]) - dot);
        const double error =
            kUnit<T> * std::abs(expected) +
            8 * kUnit<float> * float(probs[i]) * (std::abs(float(grads[i])) + absolute);
        ASSERT_NEAR(float(actual[i]), expected, error + 1e-38);
      }
    }
  }
}
TEST_F(Values, SoftmaxBackwardAtEveryBoundInFloat32) { test_softmax_backward<float>(); }
TEST_F(Values, SoftmaxBackwardAtEveryBoundInBFloat16) { test_softmax_backward<bf16>(); }

std::vector<int64_t> some_classes(int64_t rows, int64_t length) {
  std::vector<int64_t> classes(rows);
  for (int64_t row = 0; row < rows; ++row) classes[row] = (row * 7919 + length / 2) % length;
  return classes;
}

template <typename T>
void test_cross_entropy() {
  for (const int64_t length : lengths_at_bounds<T>(kLongest)) {
    const int64_t rows = rows_of(length);
    SCOPED_TRACE(trace<T>(length, rows));
    const auto logits = normal_values<T>(rows * length);
    auto classes = some_classes(rows, length);
    classes[rows - 1] = -100;
    const auto grads = normal_values<float>(rows, 1, 2);
    Losses forward;
    forward.rows =
        simt::in_every_order([&] { return cross_entropy(logits, classes, length).rows; });
    const auto backward = simt::in_every_order(
        [&] { return cross_entropy_backward(logits, classes, length, grads, forward); });
    const auto with_gradient = [&](Gradient where) {
      return simt::in_every_order(
          [&] { return cross_entropy_with_gradient(logits, classes, length, grads, where); });
    };
    const auto in_forward = with_gradient(Gradient::fresh);
    const auto in_place = with_gradient(Gradient::in_place);
    ASSERT_EQ(std::memcmp(in_place.data(), in_forward.data(), in_place.size() * sizeof(T)), 0);
    for (int64_t row = 0; row < rows; ++row) {
      const auto probs = reference_probs(logits.data() + row * length, length);
      const bool is_ignored = classes[row] == -100;
      const double loss = is_ignored ? 0 : -std::log(probs[classes[row]]);
      ASSERT_NEAR(forward.loss(row), loss, 4e-7 * std::max(1.0, loss));
      for (int64_t j = 0; j < length; ++j) {
        const double expected =
            is_ignored ? 0 : grads[row] * (probs[j] - (j == classes[row] ? 1 : 0));
        const double distance = -std::log(probs[j]);  // from the maximum, or more
        const double error = (kUnit<T> + (16 + 4 * distance) * kUnit<float>)*std::abs(expected) +
                             1e-6 * probs[j] + 1e-38;
        ASSERT_NEAR(float(backward[row * length + j]), expected, error) << row << ", " << j;
        ASSERT_NEAR(float(in_forward[row * length + j]), expected, error) << row << ", " << j;
      }
    }
  }
}
TEST_F(Values, CrossEntropyAtEveryBoundInFloat32) { test_cross_entropy<float>(); }
TEST_F(Values, CrossEntropyAtEveryBoundInBFloat16) { test_cross_entropy<bf16>(); }

template <typename T>
void test_scale_gradient() {
  struct Shape {
    int64_t outer, length, inner;
  };
  for (const auto& [outer, length, inner] : {
           Shape{1, 4099, 1},
           Shape{1,    8, 1},
           Shape{6,   33, 1},
           Shape{6,   64, 1},
           Shape{3,    7, 5}
  })
    for (int shift = 0; shift < 2; ++shift) {
      SCOPED_TRACE(trace<T>(length) + ", inner " + std::to_string(inner));
      const int64_t count = outer * length * inner;
      const auto gradient = normal_values<T>(count);
      auto factors = normal_values<float>(outer * inner, 1, 3);
      factors[0] = 1;
      const auto scaled = simt::in_every_order([&] {
        Buffer<T> data(count, shift);
        data.write(gradient, 0);
        const Buffer<float> numbers(factors);
        expect_success(launch_scale_gradient(
            TestProblem<T>(outer, length, inner).types.logits,
            outer,
            length,
            inner,
            numbers.data(),
            data.data(),
            nullptr));
        return data.read();
      });
      for (int64_t i = 0; i < count; ++i) {
        const float factor = factors[i / (length * inner) * inner + i % inner];
        ASSERT_EQ(float(scaled[i]), float(T(float(gradient[i]) * factor))) << i;
      }
    }
}
TEST_F(Values, ScaledGradientsInFloat32) { test_scale_gradient<float>(); }
TEST_F(Values, ScaledGradientsInBFloat16) { test_scale_gradient<bf16>(); }

// Neighbouring rows of an odd length lie at every shift from a multiple of 16 bytes; alone, a row
// is aligned. How many there are decides whether long ones are split.
template <typename T>
void test_rows_alone() {
  for (const int64_t length : lengths_at_bounds<T>(kLongest)) {
    const int64_t rows = rows_of(length) + 3;
    SCOPED_TRACE(trace<T>(length, rows));
    const auto logits = normal_values<T>(rows * length);
    const auto classes = some_classes(rows, length);
    const auto together = softmax(logits, rows, length);
    const auto losses = cross_entropy(logits, classes, length);
    for (int64_t row = 0; row < rows; ++row) {
      const std::vector<T> x(logits.begin() + row * length, logits.begin() + (row + 1) * length);
      const auto alone = softmax(x, 1, length);
      ASSERT_EQ(std::memcmp(alone.data(), together.data() + row * length, length * sizeof(T)), 0)
          << "row " << row;
      ASSERT_EQ(cross_entropy(x, {classes[row]}, length).loss(0), losses.loss(row));
    }
  }
}
TEST_F(Bits, OfARowAreTheSameAloneAndInABatchInFloat32) { test_rows_alone<float>(); }
TEST_F(Bits, OfARowAreTheSameAloneAndInABatchInBFloat16) { test_rows_alone<bf16>(); }

template <typename T>
void test_long_row_mappings() {
  for (const int64_t length :
       {4097 * kVectorElements<T>,
        5000 * kVectorElements<T> + 1,
        16384 * kVectorElements<T>,
        20000 * kVectorElements<T> - 3}) {
    SCOPED_TRACE(trace<T>(length));
    const auto logits = normal_values<T>(2 * length);
    const auto grads = normal_values<T>(2 * length, 1, 1);
    std::vector<std::vector<T>> results;
    for (const auto& mapping : Bits::long_row_mappings()) {
      simt::options = mapping;
      results.push_back(softmax(logits, 2, length));
      const auto backward = softmax_backward(grads, results.back(), 2, length);
      results.back().insert(results.back().end(), backward.begin(), backward.end());
      for (const Gradient where : {Gradient::fresh, Gradient::in_place}) {
        const auto gradient = simt::in_every_order([&] {
          return cross_entropy_with_gradient(logits, {1, length - 1}, length, {1, 2}, where);
        });
        results.back().insert(results.back().end(), gradient.begin(), gradient.end());
      }
      const auto losses = cross_entropy(logits, {1, length - 1}, length);
      for (const float value : losses.rows) results.back().push_back(static_cast<T>(value));
    }
    for (const auto& result : results)
      ASSERT_EQ(std::memcmp(result.data(), results[0].data(), result.size() * sizeof(T)), 0);
  }
}
TEST_F(Bits, AreTheSameInClustersLoopsAndSplitRowsInFloat32) { test_long_row_mappings<float>(); }
TEST_F(Bits, AreTheSameInClustersLoopsAndSplitRowsInBFloat16) { test_long_row_mappings<bf16>(); }

// A view that begins anywhere, and rows further apart than their length.
template <typename T>
void test_layouts() {
  for (const int64_t length : {5L, 100L, 1001L, 5000L}) {
    const int64_t rows = 3;
    const int64_t pitch = length + 5;
    const auto dense = normal_values<T>(rows * length);
    const auto expected = softmax(dense, rows, length);
    for (int shift = 0; shift < kVectorElements<T> + 1; ++shift) {
      SCOPED_TRACE(trace<T>(length) + ", shift " + std::to_string(shift));
      ASSERT_EQ(
          std::memcmp(
              softmax(dense, rows, length, shift).data(),
              expected.data(),
              expected.size() * sizeof(T)),
          0);
      TestProblem<T> problem(rows, length);
      Buffer<T> input((rows - 1) * pitch + length, shift);
      for (int64_t row = 0; row < rows; ++row) {
        const auto begin = dense.begin() + row * length;
        input.write({begin, begin + length}, row * pitch);
      }
      const Buffer<T> output(rows * length);
      expect_success(launch_softmax(problem, problem.rows(input.data(), pitch), output.data()));
      ASSERT_EQ(std::memcmp(output.read().data(), expected.data(), expected.size() * sizeof(T)), 0);
    }
  }
}
TEST_F(Bits, AreTheSameAtEveryShiftAndPitchInFloat32) { test_layouts<float>(); }
TEST_F(Bits, AreTheSameAtEveryShiftAndPitchInBFloat16) { test_layouts<bf16>(); }

// Rows along a dim that is not last: `rows` are laid out as [outer, length, inner] and their
// probabilities come back as rows.
template <typename T>
std::vector<T> softmax_of_columns(
    const std::vector<T>& rows, int64_t outer, int64_t length, int64_t inner) {
  const auto at = [&](int64_t row, int64_t j) {
    return row / inner * inner * length + j * inner + row % inner;
  };
  std::vector<T> strided(rows.size());
  for (int64_t row = 0; row < outer * inner; ++row)
    for (int64_t j = 0; j < length; ++j) strided[at(row, j)] = rows[row * length + j];
  TestProblem<T> problem(outer, length, inner);
  const Buffer<T> input(strided);
  const Buffer<T> output(strided.size());
  expect_success(launch_softmax(problem, problem.rows(input.data()), output.data()));
  const auto probs = output.read();
  std::vector<T> as_rows(rows.size());
  for (int64_t row = 0; row < outer * inner; ++row)
    for (int64_t j = 0; j < length; ++j) as_rows[row * length + j] = probs[at(row, j)];
  return as_rows;
}

template <typename T>
inline constexpr int64_t kStridedHeldLength = kStridedAlong* kStridedHeld<kVectorElements<T>>;

template <typename T>
void test_strided() {
  constexpr int64_t kHeld = kStridedHeldLength<T>;
  const std::pair<int64_t, int64_t> shapes[] = {
      {            1,  8},
      {            3, 64},
      {    kHeld - 1, 16},
      {        kHeld, 72},
      {    kHeld + 1, 64},
      {3 * kHeld - 5,  7}
  };
  for (const auto& [length, inner] : shapes) {
    SCOPED_TRACE(trace<T>(length) + ", inner " + std::to_string(inner));
    const int64_t outer = 2;
    const auto rows = normal_values<T>(outer * inner * length);
    const auto probs = simt::in_every_order([&, length = length, inner = inner] {
      return softmax_of_columns(rows, outer, length, inner);
    });
    expect_softmax(probs, rows, outer * inner, length);
  }
}
TEST_F(Values, SoftmaxAlongADimThatIsNotLastInFloat32) { test_strided<float>(); }
TEST_F(Values, SoftmaxAlongADimThatIsNotLastInBFloat16) { test_strided<bf16>(); }

// A maximum for each thread along the dim, and as many equal terms as rounding would add up over in one
// chain.
TEST_F(Values, LongSumsAlongADimThatIsNotLastKeepTheirAccuracy) {
  const int64_t length = 20 * kStridedFold * kStridedHeldLength<float>;
  std::vector<float> rows(2 * length, -0.33f);
  std::fill_n(rows.begin(), kStridedAlong, 0.f);
  std::fill_n(rows.begin() + length, kStridedAlong, 0.f);
  const auto probs = softmax_of_columns(rows, 1, length, 2);
  const double expected =
      1 / (kStridedAlong + double(length - kStridedAlong) * std::exp(double{-0.33f}));
  EXPECT_NEAR(probs[5], expected, 32 * kUnit<float> * expected);
  EXPECT_NEAR(probs[length + 7], expected, 32 * kUnit<float> * expected);
}

// However many neighbours a row has, and whether threads take them in packs.
template <typename T>
void test_strided_bits() {
  constexpr int64_t kHeld = kStridedHeldLength<T>;
  for (const int64_t length : {int64_t{3}, kHeld - 1, 3 * kHeld - 5}) {
    SCOPED_TRACE(trace<T>(length));
    const auto rows = normal_values<T>(16 * length);
    const auto expected = softmax_of_columns(rows, 1, length, 16);
    for (const int64_t inner : {2, 4, 8}) {
      const auto probs = softmax_of_columns(rows, 16 / inner, length, inner);
      ASSERT_EQ(std::memcmp(probs.data(), expected.data(), probs.size() * sizeof(T)), 0)
          << "inner " << inner;
    }
  }
}
TEST_F(Bits, AreTheSameForEveryInnerSizeInFloat32) { test_strided_bits<float>(); }
TEST_F(Bits, AreTheSameForEveryInnerSizeInBFloat16) { test_strided_bits<bf16>(); }

}  // namespace
}  // namespace softmax_ext::cuda
