// What has gone wrong in kernels of this kind elsewhere: a test for each, by name.

#include <array>
#include <functional>
#include <numeric>

#include "csrc/numerics/softmax_summary.h"
#include "tests/simt/kernels/problem.h"
#include "tests/simt/reports.h"

namespace softmax_ext::cuda {
namespace {

class Pitfall : public KernelTest {
 protected:
  // Blocks for all rows are launched, but the first and the last `blocks` run alone: of a large
  // buffer they touch little.
  static void run_first_and_last(int64_t blocks) {
    simt::options.edge = blocks;
    limit_grid_to(1 << 30);
  }
  static void limit_grid_to(int blocks) { simt::options.largest_grid = blocks; }
};

// One length for each mapping of rows: slab, part of a warp, warp, block, cluster.
const int64_t kLengths[] = {21, 60, 500, 5000, 20000};

// How many elements a buffer needs that costs memory only where it is touched.
template <typename T>
std::size_t sparse_size(int64_t count) {
  return std::max<std::size_t>(count, (std::size_t{1} << 30) / sizeof(T) + 1);
}

constexpr auto kToFloat = [](bf16 value) { return float(value); };

template <typename T>
void expect_probs(const std::vector<T>& probs, const std::vector<T>& logits) {
  const auto expected = reference_probs(logits.data(), static_cast<int64_t>(logits.size()));
  for (std::size_t j = 0; j < logits.size(); ++j)
    ASSERT_NEAR(float(probs[j]), expected[j], (kUnit<T> + 200 * kUnit<float>)*expected[j] + 1e-38)
        << "column " << j;
}

// The rows of `values` as columns, or the columns as rows.
template <typename T>
std::vector<T> transposed(const std::vector<T>& values, int64_t rows) {
  const auto length = static_cast<int64_t>(values.size()) / rows;
  std::vector<T> columns(values.size());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < length; ++j) columns[j * rows + row] = values[row * length + j];
  return columns;
}

// The options under which rows of a length go through each mapping that takes them.
template <typename T>
std::vector<simt::Options> mappings_of(int64_t length) {
  auto mappings = KernelTest::long_row_mappings();
  if (packs_of_row(length, kVectorElements<T>) <= 2048) mappings.resize(1);
  return mappings;
}

// Softmax of one row by each mapping that takes rows of its length, and along a dim that is not
// last, where it has equal neighbours.
template <typename T>
std::vector<std::vector<T>> softmax_by_every_mapping(const std::vector<T>& row) {
  const auto length = static_cast<int64_t>(row.size());
  std::vector<std::vector<T>> results;
  for (const auto& mapping : mappings_of<T>(length)) {
    simt::options = mapping;
    results.push_back(softmax(row, 1, length));
  }
  simt::options = {};
  if (length > 1000) return results;
  for (const int64_t inner : {8, 3}) {
    std::vector<T> rows;
    for (int64_t i = 0; i < inner; ++i) rows.insert(rows.end(), row.begin(), row.end());
    TestProblem<T> problem(1, length, inner);
    const Buffer<T> input(transposed(rows, inner));
    const Buffer<T> output(rows.size());
    expect_success(launch_softmax(problem, problem.rows(input.data()), output.data()));
    rows = transposed(output.read(), length);
    results.emplace_back(rows.end() - length, rows.end());
  }
  return results;
}

// 32-bit indices: many rows.
TEST_F(Pitfall, MoreThan2To31Elements) {
  run_first_and_last(3);  // as many as the tiles of the longest row
  for (const int64_t length : {1, 2, 16, 64, 1024, 8192, 40000}) {
    SCOPED_TRACE(trace<bf16>(length));
    const int64_t rows = (int64_t{1} << 32) / length + 129;
    TestProblem<bf16> problem(rows, length);
    Buffer<bf16> logits(rows * length);
    const Buffer<bf16> probs(rows * length);
    const Buffer<bf16> result(rows * length);
    Buffer<int64_t> targets(sparse_size<int64_t>(rows));
    const Buffer<float> numbers(sparse_size<float>(3 * rows));
    const auto grad = normal_values<bf16>(length, 1, 1);
    for (const int64_t row : {int64_t{0}, rows - 1}) {
      logits.write(normal_values<bf16>(length, 3, unsigned(row % 7)), row * length);
      targets.write({length / 2}, row);
    }
    const auto of_logits = problem.rows(logits.data());
    expect_success(launch_softmax(problem, of_logits, probs.data()));
    for (const int64_t row : {int64_t{0}, rows - 1})
      expect_probs(probs.read(row * length, length), logits.read(row * length, length));

    const CrossEntropyRows results{
        numbers.data(), numbers.data() + rows, numbers.data() + 2 * rows};
    const ClassTargets classes{targets.data(), -100};
    const Buffer<float> ones(std::vector<float>{1});
    expect_success(launch_cross_entropy(problem, of_logits, classes, results));
    expect_success(launch_cross_entropy_backward(
        problem,
        of_logits,
        classes,
        {ones.data(), 0},
        {results.maxima, 1},
        {results.log_sums, 1},
        result.data()));
    for (const int64_t row : {int64_t{0}, rows - 1}) {
      const auto x = logits.read(row * length, length);
      const auto expected = reference_probs(x.data(), length);
      const auto actual = result.read(row * length, length);
      ASSERT_NEAR(numbers.read(row, 1)[0], -std::log(expected[length / 2]), 1e-5);
      ASSERT_EQ(numbers.read(rows + row, 1)[0], float(*std::ranges::max_element(x, {}, kToFloat)));
      for (int64_t j = 0; j < length; ++j)
        ASSERT_NEAR(float(actual[j]), expected[j] - (j == length / 2), 2 * kUnit<bf16>);
    }

    // Over the logits, which are not needed any more.
    for (const int64_t row : {int64_t{0}, rows - 1}) logits.write(grad, row * length);
    expect_success(
        launch_softmax_backward(problem, of_logits, problem.rows(probs.data()), result.data()));
    for (const int64_t row : {int64_t{0}, rows - 1}) {
      const auto y = probs.read(row * length, length);
      const auto actual = result.read(row * length, length);
      double dot = 0;
      for (int64_t j = 0; j < length; ++j) dot += double(float(grad[j])) * float(y[j]);
      for (int64_t j = 0; j < length; ++j) {
        const double expected = float(y[j]) * (float(grad[j]) - dot);
        ASSERT_NEAR(float(actual[j]), expected, 2 * kUnit<bf16> * std::abs(expected) + 2e-6);
      }
    }
  }
}

// 32-bit indices: few rows, far apart.
TEST_F(Pitfall, RowsThatLieMoreThan2To31ElementsApart) {
  const int64_t rows = 17;
  const int64_t pitch = (int64_t{1} << 28) + 1;
  for (const int64_t length : kLengths) {
    SCOPED_TRACE(trace<bf16>(length));
    const auto dense = normal_values<bf16>(rows * length);
    const std::vector<int64_t> classes(rows, length - 1);
    Buffer<bf16> logits((rows - 1) * pitch + length);
    for (int64_t row = 0; row < rows; ++row)
      logits.write({dense.begin() + row * length, dense.begin() + (row + 1) * length}, row * pitch);
    const Buffer<bf16> probs(rows * length);
    const Buffer<float> results(3 * rows);
    const Buffer<int64_t> targets(classes);
    TestProblem<bf16> problem(rows, length);
    const auto of_logits = problem.rows(logits.data(), pitch);
    expect_success(launch_softmax(problem, of_logits, probs.data()));
    EXPECT_TRUE(
        std::ranges::equal(probs.read(), softmax(dense, rows, length), {}, kToFloat, kToFloat));
    expect_success(launch_cross_entropy(
        problem,
        of_logits,
        {targets.data(), -100},
        {results.data(), results.data() + rows, results.data() + 2 * rows}));
    EXPECT_EQ(results.read(), cross_entropy(dense, classes, length).rows);
  }
}

// 32-bit indices: one row that is longer. Of two, the first tiles of one and the last of the other
// are run; all others count as absent.
TEST_F(Pitfall, MoreThan2To31ElementsInOneRow) {
  run_first_and_last(2);
  simt::options.multiprocessors = 1000;  // more than rows: those are split
  constexpr int64_t kTile = 512 * 4 * kVectorElements<bf16>;
  for (const int64_t tail : {5, 8}) {
    SCOPED_TRACE(tail);
    const int64_t length = (int64_t{1} << 31) + tail;
    const std::vector<bf16> head_logits = normal_values<bf16>(2 * kTile);
    const std::vector<bf16> tail_logits = normal_values<bf16>(kTile + tail, 3, 1);
    const int64_t tail_begin = 2 * length - kTile - tail;
    Buffer<bf16> logits(2 * length);
    logits.write(head_logits);
    logits.write(tail_logits, tail_begin);
    const Buffer<int64_t> targets(std::vector<int64_t>{1, length - 1});
    const Buffer<float> results(6);
    const Buffer<float> ones(std::vector<float>{1});
    const Buffer<bf16> output(2 * length);
    TestProblem<bf16> problem(2, length);
    std::vector<std::unique_ptr<Buffer<SoftmaxSummary<float>>>> workspaces;
    problem.context = &workspaces;
    problem.allocate_workspace = [](void* context, std::size_t bytes) -> void* {
      auto& buffers = *static_cast<decltype(workspaces)*>(context);
      const std::vector absent(bytes / 8, SoftmaxSummary<float>::empty());
      return buffers.emplace_back(std::make_unique<Buffer<SoftmaxSummary<float>>>(absent))->data();
    };
    const auto rows = problem.rows(logits.data());
    expect_success(launch_softmax(problem, rows, output.data()));
    expect_probs(output.read(0, 2 * kTile), head_logits);
    expect_probs(output.read(tail_begin, kTile + tail), tail_logits);
    expect_success(launch_cross_entropy(
        problem,
        rows,
        {targets.data(), -100},
        {results.data(), results.data() + 2, results.data() + 4}));
    const auto head_probs = reference_probs(head_logits.data(), 2 * kTile);
    const auto tail_probs = reference_probs(tail_logits.data(), kTile + tail);
    EXPECT_NEAR(results.read()[0], -std::log(head_probs[1]), 1e-5);
    EXPECT_NEAR(results.read()[1], -std::log(tail_probs.back()), 1e-5);
    expect_success(launch_cross_entropy_backward(
        problem,
        rows,
        {targets.data(), -100},
        {ones.data(), 0},
        {results.data() + 2, 1},
        {results.data() + 4, 1},
        output.data()));
    EXPECT_NEAR(float(output.read(1, 1)[0]), head_probs[1] - 1, kUnit<bf16>);
    EXPECT_NEAR(float(output.read(2 * length - 1, 1)[0]), tail_probs.back() - 1, kUnit<bf16>);
    EXPECT_NEAR(
        float(output.read(2 * length - 2, 1)[0]),
        tail_probs[kTile + tail - 2],
        2 * kUnit<bf16> * tail_probs[kTile + tail - 2]);
  }
}

// 32-bit indices: many rows along a dim that is not last, and elements of a row that lie far apart.
TEST_F(Pitfall, MoreThan2To31ElementsAlongADimThatIsNotLast) {
  run_first_and_last(2);
  const int64_t far = int64_t{1} << 26;
  for (const auto& [outer, length, inner] : {
           std::array{int64_t{1} << 21 | 1, int64_t{16}, int64_t{64}},
           std::array{          int64_t{1}, int64_t{33},     far + 8},
           std::array{          int64_t{1}, int64_t{33},     far + 1}
  }) {
    SCOPED_TRACE(trace<bf16>(length, outer) + ", inner " + std::to_string(inner));
    const int64_t across = std::min<int64_t>(inner, 8);  // of the last rows, whose blocks run
    TestProblem<bf16> problem(outer, length, inner);
    Buffer<bf16> logits(outer * length * inner);
    const Buffer<bf16> output(outer * length * inner);
    const auto rows = normal_values<bf16>(across * length);
    const auto columns = transposed(rows, across);
    const auto offset = [&, outer = outer, length = length, inner = inner](int64_t j) {
      return ((outer - 1) * length + j) * inner + inner - across;
    };
    for (int64_t j = 0; j < length; ++j)
      logits.write({columns.begin() + j * across, columns.begin() + (j + 1) * across}, offset(j));
    const auto expect_last = [&, length = length](auto expect) {
      std::vector<bf16> read;
      for (int64_t j = 0; j < length; ++j) {
        const auto part = output.read(offset(j), across);
        read.insert(read.end(), part.begin(), part.end());
      }
      read = transposed(read, length);
      for (int64_t row = 0; row < across; ++row)
        expect(
            std::vector<bf16>(read.begin() + row * length, read.begin() + (row + 1) * length),
            std::vector<bf16>(rows.begin() + row * length, rows.begin() + (row + 1) * length));
    };
    const auto of_logits = problem.rows(logits.data());
    expect_success(launch_softmax(problem, of_logits, output.data()));
    expect_last([](const auto& probs, const auto& x) { expect_probs(probs, x); });

    const int64_t count = outer * inner;
    Buffer<int64_t> targets(sparse_size<int64_t>(count));
    const Buffer<float> results(sparse_size<float>(3 * count));
    targets.write(std::vector<int64_t>(across, length - 1), count - across);
    const Buffer<float> ones(std::vector<float>{1});
    expect_success(launch_cross_entropy_with_gradient(
        problem,
        of_logits,
        of_logits,
        {targets.data(), -100},
        {ones.data(), 0},
        {results.data(), results.data() + count, results.data() + 2 * count},
        output.data()));
    expect_last([](const auto& gradient, const auto& x) {
      const auto expected = reference_probs(x.data(), static_cast<int64_t>(x.size()));
      for (std::size_t j = 0; j < x.size(); ++j)
        ASSERT_NEAR(float(gradient[j]), expected[j] - (j + 1 == x.size()), 2 * kUnit<bf16>);
    });
  }
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
      for (const auto& probs : softmax_by_every_mapping(logits)) EXPECT_EQ(probs, expected);
      for (const auto& mapping : mappings_of<float>(length)) {
        simt::options = mapping;
        EXPECT_EQ(cross_entropy(logits, {finite}, length).loss(0), 0);
      }
    }
}

// The same for whatever shares a row: lanes, warps, tiles and blocks of a cluster, and the last
// pack; and for all but each of these.
template <typename T>
void test_shares_of_minus_infinity() {
  constexpr int64_t kPack = kVectorElements<T>;
  constexpr int64_t kTile = 512 * 4 * kPack;
  for (const int64_t length : kLengths) {
    const std::pair<const char*, std::function<bool(int64_t)>> shares[] = {
        {   "lane 5",                [](int64_t j) { return j / kPack % 32 == 5; }},
        {   "warp 1",           [](int64_t j) { return j / kPack / 32 % 16 == 1; }},
        {   "tile 0",                     [](int64_t j) { return j / kTile == 0; }},
        {   "tile 1",                     [](int64_t j) { return j / kTile == 1; }},
        {"last pack", [&](int64_t j) { return j >= (length - 1) / kPack * kPack; }},
    };
    for (const auto& [name, is_in_share] : shares)
      for (const bool inside : {true, false}) {
        SCOPED_TRACE(trace<T>(length) + (inside ? ", " : ", all but ") + name);
        auto logits = normal_values<T>(length);
        for (int64_t j = 0; j < length; ++j)
          if (is_in_share(j) == inside) logits[j] = static_cast<T>(-kInf);
        if (std::ranges::all_of(logits, [](T x) { return float(x) == -kInf; })) continue;
        for (const auto& probs : softmax_by_every_mapping(logits)) expect_probs(probs, logits);
      }
  }
}
TEST_F(Pitfall, AShareOfMinusInfinityInFloat32) { test_shares_of_minus_infinity<float>(); }
TEST_F(Pitfall, AShareOfMinusInfinityInBFloat16) { test_shares_of_minus_infinity<bf16>(); }

TEST_F(Pitfall, AMaskedRowIsNaNAndSpoilsNoOther) {
  for (const int64_t length : kLengths) {
    auto logits = normal_values<float>(3 * length);
    std::fill_n(logits.begin() + length, length, -kInf);
    const auto probs = softmax(logits, 3, length);
    for (int64_t i = 0; i < 3 * length; ++i)
      ASSERT_EQ(std::isnan(probs[i]), i / length == 1) << trace<float>(length);
  }
}

// A maximum by comparison drops NaN, in one order of the operands; a NaN among −inf is one of no
// maximum at all.
TEST_F(Pitfall, NaNAndPlusInfinityAreNeverDropped) {
  for (const int64_t length : kLengths)
    for (const float special : {kNan, kInf})
      for (const bool among_finite : {true, false})
        for (const int64_t place : {int64_t{0}, length / 3, length - 1}) {
          if (!among_finite && place != length / 3) continue;
          SCOPED_TRACE(
              trace<float>(length) + ", " + std::to_string(special) + " at " +
              std::to_string(place) + (among_finite ? "" : " among -inf"));
          auto logits =
              among_finite ? normal_values<float>(length) : std::vector<float>(length, -kInf);
          logits[place] = special;
          for (const auto& probs : softmax_by_every_mapping(logits))
            for (const float p : probs) ASSERT_TRUE(std::isnan(p));
          const int64_t target = place == 0 ? length / 2 : place;
          for (const auto& mapping : mappings_of<float>(length)) {
            simt::options = mapping;
            ASSERT_TRUE(std::isnan(cross_entropy(logits, {target}, length).loss(0)));
            for (const float g : cross_entropy_with_gradient(logits, {target}, length, {1.f}))
              ASSERT_TRUE(std::isnan(g));
          }
          simt::options = {};
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
  for (const int64_t length : kLengths) {
    for (const auto& mapping : mappings_of<float>(length)) {
      const int64_t rows = std::clamp<int64_t>(6000 / length, 5, 300);
      SCOPED_TRACE(trace<float>(length, rows));
      simt::options = mapping;
      limit_grid_to(2);
      const auto logits = normal_values<float>(rows * length);
      const auto grads = normal_values<float>(rows * length, 1, 1);
      const auto probs = simt::in_every_order([&] { return softmax(logits, rows, length); });
      // In a slab that is not aligned threads do not write what they read.
      if (length <= kMaxSlabLength)
        EXPECT_EQ(simt::in_every_order([&] { return softmax(logits, rows, length, 1); }), probs);
      const auto result =
          simt::in_every_order([&] { return softmax_backward(grads, probs, rows, length); });
      const auto losses = simt::in_every_order(
          [&] { return cross_entropy(logits, std::vector<int64_t>(rows, 1), length).rows; });
      for (int64_t row = 0; row < rows; ++row) {
        const auto expected = reference_probs(logits.data() + row * length, length);
        double dot = 0;
        for (int64_t j = 0; j < length; ++j)
          dot += double(grads[row * length + j]) * probs[row * length + j];
        ASSERT_NEAR(losses[row], -std::log(expected[1]), 1e-5);
        for (int64_t i = row * length; i < (row + 1) * length; ++i) {
          ASSERT_NEAR(probs[i], expected[i - row * length], 1e-5 * expected[i - row * length]);
          ASSERT_NEAR(result[i], probs[i] * (grads[i] - dot), 1e-5 * probs[i]);
        }
      }
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST_F(Pitfall, MoreTilesThanBlocksReuseSharedMemoryAlongADimThatIsNotLast) {
  limit_grid_to(2);
  for (const int64_t length : {20, 300}) {
    const int64_t inner = 200;
    const auto rows = normal_values<float>(inner * length);
    const auto probs = simt::in_every_order([&] {
      TestProblem<float> problem(1, length, inner);
      const Buffer<float> input(transposed(rows, inner));
      const Buffer<float> output(rows.size());
      expect_success(launch_softmax(problem, problem.rows(input.data()), output.data()));
      return transposed(output.read(), length);
    });
    for (auto x = rows.begin(), p = probs.begin(); x != rows.end(); x += length, p += length)
      expect_probs(std::vector<float>(p, p + length), std::vector<float>(x, x + length));
  }
}

TEST_F(Pitfall, MoreGroupsOfLossesThanBlocksReuseSharedMemory) {
  limit_grid_to(2);
  const int64_t groups = 7;
  const int64_t rows = 600;
  auto losses = normal_values<float>(groups * rows);
  std::vector<int64_t> classes(losses.size(), 3);
  for (std::size_t i = 0; i < classes.size(); i += 5) {
    classes[i] = -100;
    losses[i] = 0;
  }
  const auto results = simt::in_every_order([&] {
    const Buffer<float> input(losses);
    const Buffer<int64_t> targets(classes);
    const Buffer<float> output(groups);
    const Buffer<double> counts(groups);
    expect_success(launch_reduce_losses(
        ElementType::float32,
        groups,
        rows,
        input.data(),
        {targets.data(), -100},
        true,
        output.data(),
        counts.data(),
        nullptr));
    EXPECT_EQ(counts.read(), std::vector<double>(groups, rows * 4 / 5));
    return output.read();
  });
  for (int64_t group = 0; group < groups; ++group) {
    const auto first = losses.begin() + group * rows;
    const double sum = std::accumulate(first, first + rows, 0.0);
    EXPECT_NEAR(results[group], sum / (rows * 4 / 5), 1e-6) << group;
  }
}

// Where an input and an output, or two inputs, are shifted from multiples of 16 bytes by different
// numbers of elements, no width of access suits both; targets lie at multiples of 8 bytes alone.
template <typename T>
void test_shifts() {
  const auto expect_same_bits = [](const std::vector<T>& actual, const std::vector<T>& expected) {
    ASSERT_EQ(std::memcmp(actual.data(), expected.data(), expected.size() * sizeof(T)), 0);
  };
  for (const int64_t length : {7L, 101L, 1000L, 5001L, 17000L}) {
    const int64_t rows = 3;
    const auto logits = normal_values<T>(rows * length);
    const auto grads = normal_values<T>(rows * length, 1, 1);
    const std::vector<int64_t> classes{0, length / 2, length - 1};
    const std::vector<float> of_losses{1, -2, 3};
    const auto probs = softmax(logits, rows, length);
    const auto gradients = softmax_backward(grads, probs, rows, length);
    const auto losses = cross_entropy(logits, classes, length);
    const auto of_logits = cross_entropy_backward(logits, classes, length, of_losses, losses);
    const int step = length == 17000 ? 5 : 1;
    for (int shift = 1; shift < 16; shift += step) {
      const int other_shift = shift * 3 % 16;
      SCOPED_TRACE(trace<T>(length) + ", shift " + std::to_string(shift));
      TestProblem<T> problem(rows, length);
      const Buffer<T> input(logits, shift);
      const Buffer<T> output(logits.size(), other_shift);
      expect_success(launch_softmax(problem, problem.rows(input.data()), output.data()));
      expect_same_bits(output.read(), probs);
      const Buffer<T> grad(grads, other_shift);
      const Buffer<T> result(logits.size(), 15 - shift);
      expect_success(launch_softmax_backward(
          problem, problem.rows(grad.data()), problem.rows(output.data()), result.data()));
      expect_same_bits(result.read(), gradients);
      const Buffer<int64_t> targets(classes, shift);
      const Buffer<float> grad_of_losses(of_losses, shift);
      const Buffer<float> results(3 * rows, other_shift);
      float* const first = results.data();
      expect_success(launch_cross_entropy(
          problem,
          problem.rows(input.data()),
          {targets.data(), -100},
          {first, first + rows, first + 2 * rows}));
      ASSERT_EQ(results.read(), losses.rows);
      expect_success(launch_cross_entropy_backward(
          problem,
          problem.rows(input.data()),
          {targets.data(), -100},
          {grad_of_losses.data(), 1},
          {first + rows, 1},
          {first + 2 * rows, 1},
          result.data()));
      expect_same_bits(result.read(), of_logits);
    }
  }
}
TEST_F(Pitfall, InputsAndOutputsAtDifferentShiftsInFloat32) { test_shifts<float>(); }
TEST_F(Pitfall, InputsAndOutputsAtDifferentShiftsInBFloat16) { test_shifts<bf16>(); }

TEST_F(Pitfall, EqualLogitsLoseNothingInALongSum) {
  const int64_t length = 1 << 18;
  const auto probs = softmax(std::vector<float>(length, 1.f), 1, length);
  for (const float p : probs) ASSERT_NEAR(p, 0x1p-18, 2 * kUnit<float> * 0x1p-18);
}

}  // namespace
}  // namespace softmax_ext::cuda
