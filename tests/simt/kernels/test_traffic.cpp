// How often each kernel moves a row through memory, counted byte by byte. Only the race build
// counts.

#include "tests/simt/kernels/problem.h"

namespace softmax_ext::cuda {
namespace {

class Traffic : public KernelTest {
 protected:
  void SetUp() override {
    if (!simt::has_race_checker()) GTEST_SKIP() << "only the race build counts";
    simt::options.multiprocessors = 1;
  }
};

// Whole packs, so that each byte of an aligned row is wanted once: slab, warp, block, cluster.
const int64_t kLengths[] = {32, 64, 1024, 4096, 20480, 40960};

template <typename T>
void expect_moved(const Buffer<T>& buffer, int reads, int writes, const std::string& what) {
  const auto bytes = static_cast<int64_t>(buffer.size() * sizeof(T));
  EXPECT_EQ(buffer.traffic().read, reads * bytes) << what;
  EXPECT_EQ(buffer.traffic().written, writes * bytes) << what;
}

template <typename T>
void test_normalizations() {
  for (const int64_t length : kLengths)
    for (const int64_t inner : {1, 64}) {
      if (inner > 1 && length > kStridedAlong * kStridedHeld<kVectorElements<T>>) continue;
      const int64_t outer = inner > 1 ? 2 : 3;
      const int64_t count = outer * length * inner;
      const auto what = trace<T>(length) + ", inner " + std::to_string(inner);
      TestProblem<T> problem(outer, length, inner);
      Buffer<T> logits(normal_values<T>(count));
      Buffer<T> probs(count);
      expect_success(launch_softmax(problem, problem.rows(logits.data()), probs.data()));
      expect_moved(logits, 1, 0, what);
      expect_moved(probs, 0, 1, what);
      probs.reset_traffic();
      const Buffer<T> grads(normal_values<T>(count));
      const Buffer<T> result(count);
      expect_success(launch_softmax_backward(
          problem, problem.rows(grads.data()), problem.rows(probs.data()), result.data()));
      expect_moved(grads, 1, 0, what);
      expect_moved(probs, 1, 0, what);
      expect_moved(result, 0, 1, what);
    }
}
TEST_F(Traffic, SoftmaxIsTwoPassesAndItsBackwardThreeInFloat32) { test_normalizations<float>(); }
TEST_F(Traffic, SoftmaxIsTwoPassesAndItsBackwardThreeInBFloat16) { test_normalizations<bf16>(); }

// The true class of each row is written once more, over what its column had.
template <typename T>
void expect_gradient_written_once(
    const Buffer<T>& gradient, int64_t rows, const std::string& what) {
  EXPECT_EQ(gradient.traffic().read, 0) << what;
  EXPECT_EQ(gradient.traffic().written, static_cast<int64_t>((gradient.size() + rows) * sizeof(T)))
      << what;
}

// Beside the row's own logits, each thread that needs the target's reads that one again.
template <typename T>
void expect_read_once(const Buffer<T>& logits, int64_t rows, const std::string& what) {
  const auto bytes = static_cast<int64_t>(logits.size() * sizeof(T));
  EXPECT_GE(logits.traffic().read, bytes) << what;
  EXPECT_LE(logits.traffic().read, bytes + rows * 8 * 1024 * static_cast<int64_t>(sizeof(T)))
      << what;
}

template <typename T>
void test_cross_entropy() {
  for (const int64_t length : {4096, 16384, 131072}) {
    const int64_t rows = 2;
    const auto what = trace<T>(length);
    TestProblem<T> problem(rows, length);
    Buffer<T> logits(normal_values<T>(rows * length));
    const Buffer<int64_t> targets(std::vector<int64_t>{3, length - 1});
    const Buffer<float> grads(std::vector<float>{1, 2});
    const Buffer<float> results(3 * rows);
    float* const losses = results.data();
    const CrossEntropyRows of_rows{losses, losses + rows, losses + 2 * rows};
    const auto logit_rows = problem.rows(logits.data());
    const ClassTargets classes{targets.data(), -100};
    expect_success(launch_cross_entropy(problem, logit_rows, classes, of_rows));
    EXPECT_EQ(logits.traffic().read, static_cast<int64_t>((logits.size() + rows) * sizeof(T)))
        << what;
    logits.reset_traffic();

    const Buffer<T> backward(rows * length);
    expect_success(launch_cross_entropy_backward(
        problem,
        logit_rows,
        classes,
        {grads.data(), 1},
        {losses + rows, 1},
        {losses + 2 * rows, 1},
        backward.data()));
    expect_gradient_written_once(backward, rows, what);
    expect_read_once(logits, rows, what);
    logits.reset_traffic();

    if (packs_of_row(length, kVectorElements<T>) > 16384) continue;  // read twice
    const Buffer<T> gradient(rows * length);
    expect_success(launch_cross_entropy_with_gradient(
        problem, logit_rows, logit_rows, classes, {grads.data(), 1}, of_rows, gradient.data()));
    expect_gradient_written_once(gradient, rows, what);
    expect_read_once(logits, rows, what);
  }
}
TEST_F(Traffic, CrossEntropyIsOnePassBackwardTwoAndGradientInForwardTwoInFloat32) {
  test_cross_entropy<float>();
}
TEST_F(Traffic, CrossEntropyIsOnePassBackwardTwoAndGradientInForwardTwoInBFloat16) {
  test_cross_entropy<bf16>();
}

TEST_F(Traffic, AGradientThatIsScaledBy1IsLeftAlone) {
  const int64_t length = 4096;
  for (const float factor : {1.f, 2.f}) {
    const Buffer<float> gradient(normal_values<float>(length));
    const Buffer<float> factors(std::vector<float>{factor});
    expect_success(launch_scale_gradient(
        ElementType::float32, 1, length, 1, factors.data(), gradient.data(), nullptr));
    const int passes = factor == 1 ? 0 : 1;
    expect_moved(gradient, passes, passes, std::to_string(factor));
  }
}

}  // namespace
}  // namespace softmax_ext::cuda
