// What has gone wrong in kernels of this kind elsewhere: a test for each, by name.

#include "tests/simt/kernels/problem.h"
#include "tests/simt/reports.h"

namespace softmax_ext::cuda {
namespace {

class Pitfall : public KernelTest {};

// One length for each mapping of rows: slab, part of a warp, warp, block, cluster.
const int64_t kLengths[] = {20, 60, 1000, 5000, 20000};

// 32-bit indices: more than 2^31 elements in rows, and along a dim that is not last. Only the first
// and the last blocks run, over memory that is never touched elsewhere.
TEST_F(Pitfall, MoreThan2To31Elements) {
  simt::options.edge = 1;
  simt::options.resident_blocks = 1 << 30;
  simt::options.device = 64;  // beyond the devices whose resident blocks are remembered
  for (const int64_t length : {16, 64, 1024, 8192}) {
    const int64_t rows = (int64_t{1} << 32) / length + 129;
    TestProblem<bf16> problem(rows, length);
    const Buffer<bf16> input(rows * length);
    const Buffer<bf16> output(rows * length);
    for (const int64_t row : {int64_t{0}, rows - 1})
      for (int64_t j = 0; j < length; ++j)
        input.data()[row * length + j] = static_cast<bf16>(static_cast<float>(j % 7));
    expect_success(launch_softmax(problem, problem.rows(input.data()), output.data()));
    for (const int64_t row : {int64_t{0}, rows - 1}) {
      const auto probs = output.read(row * length, length);
      const auto expected = reference_probs(input.data() + row * length, length);
      for (int64_t j = 0; j < length; ++j)
        ASSERT_NEAR(float(probs[j]), expected[j], 2 * kUnit<bf16> * expected[j]) << length;
    }
  }
}
TEST_F(Pitfall, MoreThan2To31ElementsAlongADimThatIsNotLast) {
  simt::options.edge = 1;
  simt::options.resident_blocks = 1 << 30;
  simt::options.device = 64;
  const int64_t outer = (int64_t{1} << 21) + 1, length = 16, inner = 64;
  TestProblem<bf16> problem(outer, length, inner);
  const Buffer<bf16> input(outer * length * inner);
  const Buffer<bf16> output(outer * length * inner);
  expect_success(launch_softmax(problem, problem.rows(input.data()), output.data()));
  for (const bf16 p : output.read((outer * length - 1) * inner, inner))
    ASSERT_EQ(float(p), 1.f / 16);
}

// An online sum without a guard makes exp(−inf − (−inf)) of a slice of −inf alone.
TEST_F(Pitfall, ASliceOfMinusInfinityAlone) {
  for (const int64_t length : kLengths)
    for (const int64_t finite : {int64_t{0}, length / 2, length - 1}) {
      SCOPED_TRACE(trace<float>(length) + ", finite " + std::to_string(finite));
      std::vector<float> logits(length, -kInf);
      logits[finite] = 3;
      std::vector<float> expected(length, 0.f);
      expected[finite] = 1;
      for (const auto& mapping : long_row_mappings()) {
        simt::options = mapping;
        EXPECT_EQ(softmax(logits, 1, length), expected);
        EXPECT_EQ(cross_entropy(logits, {finite}, length).loss(0), 0);
      }
    }
}

TEST_F(Pitfall, AMaskedRowIsNaNAndSpoilsNoOther) {
  for (const int64_t length : kLengths) {
    auto logits = normal_values<float>(3 * length);
    std::fill_n(logits.begin() + length, length, -kInf);
    const auto probs = softmax(logits, 3, length);
    for (int64_t i = 0; i < 3 * length; ++i)
      ASSERT_EQ(std::isnan(probs[i]), i / length == 1) << trace<float>(length);
  }
}

// A maximum by comparison drops NaN, in one order of the operands.
TEST_F(Pitfall, NaNAndPlusInfinityAreNeverDropped) {
  for (const int64_t length : kLengths)
    for (const float special : {kNan, kInf})
      for (const int64_t place : {int64_t{0}, length / 3, length - 1}) {
        auto logits = normal_values<float>(length);
        logits[place] = special;
        for (const auto& mapping : long_row_mappings()) {
          simt::options = mapping;
          for (const float p : softmax(logits, 1, length))
            ASSERT_TRUE(std::isnan(p))
                << trace<float>(length) << ", " << special << " at " << place;
        }
      }
}

TEST_F(Pitfall, TheTrueClassKeepsItsGradientNearProbability1) {
  for (const float gap : {3.f, 7.f, 12.f, 17.f}) {
    for (const int64_t length : kLengths) {
      std::vector<float> logits(length, -100.f);
      logits[0] = gap;
      logits[1] = 0;
      const double expected = -std::exp(-gap) / (1 + std::exp(-gap));
      const auto forward = cross_entropy(logits, {0}, length);
      const auto backward = cross_entropy_backward(logits, {0}, length, {1.f}, forward);
      EXPECT_NEAR(backward[0], expected, 16 * kUnit<float> * -expected) << gap;
      EXPECT_EQ(cross_entropy_with_gradient(logits, {0}, length, {1.f})[0], backward[0]);
    }
  }
}

// One rounded log-sum-exp near 1e4 would cost the gradient four digits.
TEST_F(Pitfall, LogitsNear1e4) {
  for (const int64_t length : kLengths) {
    auto logits = normal_values<float>(length);
    for (float& logit : logits) logit += 1e4f;
    const auto expected = reference_probs(logits.data(), length);
    const auto probs = softmax(logits, 1, length);
    const auto forward = cross_entropy(logits, {1}, length);
    const auto backward = cross_entropy_backward(logits, {1}, length, {1.f}, forward);
    for (int64_t j = 2; j < length; ++j) {
      ASSERT_NEAR(probs[j], expected[j], 100 * kUnit<float> * expected[j]);
      ASSERT_NEAR(backward[j], expected[j], 100 * kUnit<float> * expected[j]);
    }
  }
}

TEST_F(Pitfall, IgnoredRowsHaveZeroGradientWhateverTheyHold) {
  for (const int64_t length : kLengths)
    for (const float junk : {kNan, kInf, -kInf}) {
      const std::vector<float> logits(2 * length, junk);
      const auto forward = cross_entropy(logits, {-100, -100}, length);
      EXPECT_EQ(forward.loss(0), 0);
      const std::vector<float> zeros(2 * length, 0.f);
      const std::vector<float> grads{1, kNan};
      EXPECT_EQ(cross_entropy_backward(logits, {-100, -100}, length, grads, forward), zeros);
      EXPECT_EQ(cross_entropy_with_gradient(logits, {-100, -100}, length, grads), zeros);
    }
}

TEST_F(Pitfall, ATargetOutOfRangeIsReportedAndNeverRead) {
  for (const int64_t length : kLengths) {
    const auto logits = normal_values<float>(length);
    for (const int64_t target : {int64_t{-1}, length, int64_t{1} << 40})
      EXPECT_TRUE(
          simt::reports("expected targets in", [&] { cross_entropy(logits, {target}, length); }));
  }
}

// Padding columns that count: lengths beside whole tiles, against a sum that must be 1.
TEST_F(Pitfall, PaddingCountsInNoSum) {
  for (const auto& mapping : long_row_mappings()) {
    simt::options = mapping;
    for (const int64_t tile : {8192, 16384, 32768})
      for (const int64_t length : {tile - 1, tile, tile + 1}) {
        const std::vector<float> logits(length, -5.f);
        for (const float p : softmax(logits, 1, length))
          ASSERT_NEAR(p, 1.0 / double(length), 4 * kUnit<float> / double(length));
      }
  }
}

TEST_F(Pitfall, MoreRowsThanBlocksReuseSharedMemoryAndClusters) {
  simt::options.device = 64;
  simt::options.resident_blocks = 2;
  for (const int64_t length : kLengths) {
    const int64_t rows = length > 1000 ? 5 : 300;
    const auto logits = normal_values<float>(rows * length);
    const auto probs = simt::in_every_order([&] { return softmax(logits, rows, length); });
    for (int64_t row = 0; row < rows; ++row) {
      const auto expected = reference_probs(logits.data() + row * length, length);
      for (int64_t j = 0; j < length; ++j)
        ASSERT_NEAR(probs[row * length + j], expected[j], 100 * kUnit<float> * expected[j]);
    }
  }
}

TEST_F(Pitfall, EqualLogitsLoseNothingInALongSum) {
  const int64_t length = 1 << 18;
  const auto probs = softmax(std::vector<float>(length, 1.f), 1, length);
  for (const float p : probs) ASSERT_NEAR(p, 0x1p-18, 2 * kUnit<float> * 0x1p-18);
}

}  // namespace
}  // namespace softmax_ext::cuda
