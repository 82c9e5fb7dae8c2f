#pragma once
// Problems of cuda/kernels.h for tests, on buffers with exact bounds, and what they should yield.

#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/launch_rows.cuh"
#include "cuda/losses.h"
#include "tests/simt/buffer.h"
#include "tests/simt/orders.h"

namespace softmax_ext::cuda {

using simt::Buffer;
using bf16 = __nv_bfloat16;

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename T>
constexpr ElementType kElementType =
    std::is_same_v<T, float> ? ElementType::float32 : ElementType::bfloat16;
template <typename T>
constexpr double kUnit = std::is_same_v<T, float> ? 0x1p-24 : 0x1p-8;

template <typename T>
std::vector<T> normal_values(int64_t count, float deviation = 3, unsigned seed = 0) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(normal(generator));
  return values;
}

// A problem and its workspace.
template <typename T>
struct TestProblem : RowsProblem {
  TestProblem(int64_t outer, int64_t length, int64_t inner = 1)
      : RowsProblem{
            .outer = outer,
            .length = length,
            .inner = inner,
            .types = {kElementType<T>, kElementType<T>},
            .temperatures = {   {nullptr, 0},             1.0},
            .stream = nullptr,
            .allocate_workspace = &TestProblem::allocate,
            .context = this
  } {}
  TestProblem(const TestProblem&) = delete;

  // Contiguous rows, or rows `pitch` elements apart.
  StridedRows rows(const T* data, int64_t pitch = -1) const {
    StridedRows rows{data, {}, inner};
    if (inner == 1) {
      rows.offsets.strides[0] = pitch < 0 ? length : pitch;
      return rows;
    }
    rows.offsets.dims = 2;
    rows.offsets.sizes[0] = inner;
    rows.offsets.strides[0] = 1;
    rows.offsets.sizes[1] = outer;
    rows.offsets.strides[1] = length * inner;
    return rows;
  }

 private:
  std::vector<std::unique_ptr<Buffer<float>>> workspaces_;

  static void* allocate(void* context, std::size_t bytes) {
    auto& workspaces = static_cast<TestProblem*>(context)->workspaces_;
    return workspaces.emplace_back(std::make_unique<Buffer<float>>((bytes + 3) / 4))->data();
  }
};

inline void expect_success(cudaError_t error) { ASSERT_EQ(error, cudaSuccess); }

template <typename T>
std::vector<T> softmax(const std::vector<T>& logits, int64_t rows, int64_t length, int shift = 0) {
  TestProblem<T> problem(rows, length);
  const Buffer<T> input(logits, shift);
  const Buffer<T> output(logits.size());
  expect_success(launch_softmax(problem, problem.rows(input.data()), output.data()));
  return output.read();
}

template <typename T>
std::vector<T> softmax_backward(
    const std::vector<T>& grads, const std::vector<T>& outputs, int64_t rows, int64_t length) {
  TestProblem<T> problem(rows, length);
  const Buffer<T> grad(grads);
  const Buffer<T> output(outputs);
  const Buffer<T> result(outputs.size());
  expect_success(launch_softmax_backward(
      problem, problem.rows(grad.data()), problem.rows(output.data()), result.data()));
  return result.read();
}

// Loss, max and log-sum of each row, one after another; then, if asked for, the gradient.
struct Losses {
  std::vector<float> rows;
  int64_t count() const { return static_cast<int64_t>(rows.size()) / 3; }
  float loss(int64_t row) const { return rows[row]; }
};

template <typename T>
Losses cross_entropy(
    const std::vector<T>& logits, const std::vector<int64_t>& classes, int64_t length) {
  const auto rows = static_cast<int64_t>(classes.size());
  TestProblem<T> problem(rows, length);
  const Buffer<T> input(logits);
  const Buffer<int64_t> targets(classes);
  const Buffer<float> results(3 * rows);
  float* const losses = results.data();
  expect_success(launch_cross_entropy(
      problem,
      problem.rows(input.data()),
      {targets.data(), -100},
      {losses, losses + rows, losses + 2 * rows}));
  return {results.read()};
}

// Of losses with the gradients `grads`, from the results of the forward pass.
template <typename T>
std::vector<T> cross_entropy_backward(
    const std::vector<T>& logits,
    const std::vector<int64_t>& classes,
    int64_t length,
    const std::vector<float>& grads,
    const Losses& forward) {
  const auto rows = static_cast<int64_t>(classes.size());
  TestProblem<T> problem(rows, length);
  const Buffer<T> input(logits);
  const Buffer<int64_t> targets(classes);
  const Buffer<float> grad(grads);
  const Buffer<float> saved(forward.rows);
  const Buffer<T> result(logits.size());
  expect_success(launch_cross_entropy_backward(
      problem,
      problem.rows(input.data()),
      {targets.data(), -100},
      {grad.data(), 1},
      {saved.data() + rows, 1},
      {saved.data() + 2 * rows, 1},
      result.data()));
  return result.read();
}

// The gradient in a tensor of its own, or over the logits.
enum class Gradient { fresh, in_place };

template <typename T>
std::vector<T> cross_entropy_with_gradient(
    const std::vector<T>& logits,
    const std::vector<int64_t>& classes,
    int64_t length,
    const std::vector<float>& grads,
    Gradient where = Gradient::fresh) {
  const auto rows = static_cast<int64_t>(classes.size());
  TestProblem<T> problem(rows, length);
  const Buffer<T> input(logits);
  const Buffer<int64_t> targets(classes);
  const Buffer<float> grad(grads);
  const Buffer<float> results(3 * rows);
  float* const losses = results.data();
  const auto launch = [&](const StridedRows& target_logits, const Buffer<T>& result) {
    expect_success(launch_cross_entropy_with_gradient(
        problem,
        problem.rows(input.data()),
        target_logits,
        {targets.data(), -100},
        {grad.data(), 1},
        {losses, losses + rows, losses + 2 * rows},
        result.data()));
    return result.read();
  };
  if (where == Gradient::fresh) return launch(problem.rows(input.data()), Buffer<T>(logits.size()));
  std::vector<T> of_targets;
  for (int64_t row = 0; row < rows; ++row)
    of_targets.push_back(logits[row * length + (classes[row] == -100 ? 0 : classes[row])]);
  const Buffer<T> copy(of_targets);
  return launch(
      {
          copy.data(), {1, {rows}, {1}},
           0
  },
      input);
}

// A row's logits as probabilities, in double.
template <typename T>
std::vector<double> reference_probs(const T* logits, int64_t length) {
  double max = -kInf;
  for (int64_t j = 0; j < length; ++j) max = std::max(max, double(float(logits[j])));
  std::vector<double> probs(length);
  double sum = 0;
  for (int64_t j = 0; j < length; ++j) sum += probs[j] = std::exp(double(float(logits[j])) - max);
  for (double& p : probs) p /= sum;
  return probs;
}

// The lengths on both sides of every bound of the launch policy, and those of slabs.
template <typename T>
std::vector<int64_t> lengths_at_bounds(int64_t longest) {
  constexpr int kPack = kVectorElements<T>;
  std::vector<int64_t> lengths{1, 2, 3, 31, kMaxSlabLength, kMaxSlabLength + 1};
  for (const LaunchPolicy& policy : kPolicies) {
    const int64_t bound = policy.max_packs;
    if (bound == kAnyLength || bound * kPack > longest) continue;
    // Rows of one pack less or more, and those that end within the last one.
    for (const int64_t length :
         {(bound - 1) * kPack,
          (bound - 1) * kPack + 1,
          bound * kPack - 1,
          bound * kPack,
          bound * kPack + 1})
      if (length > 0) lengths.push_back(length);
  }
  return lengths;
}

#if defined(__CUDACC__)
inline constexpr bool kOnDevice = true;
#else
inline constexpr bool kOnDevice = false;
#endif

// How many rows a test takes: a few, or on a device more than it has multiprocessors.
constexpr int64_t rows_of(int64_t length) {
  const int64_t few = length > 4000 ? 2 : 5;
  return kOnDevice ? 150 + few : few;
}

// Options for the time of a test.
class KernelTest : public testing::Test {
 public:
  // The ways that a long row can go: a cluster, a loop over tiles, split tiles. A device knows two.
  static std::vector<simt::Options> long_row_mappings() {
    std::vector<simt::Options> mappings(3);
    mappings[0].multiprocessors = 1;  // never fewer rows than those: nothing is split
    mappings[1].multiprocessors = 1;
    mappings[1].has_clusters = false;
    mappings[2].multiprocessors = 1000;
    mappings[2].has_clusters = false;
    return mappings;
  }

 protected:
  ~KernelTest() override { simt::options = {}; }
};

template <typename T>
std::string trace(int64_t length, int64_t rows = 0) {
  return (std::is_same_v<T, float> ? "float32, length " : "bfloat16, length ") +
         std::to_string(length) + ", rows " + std::to_string(rows);
}

}  // namespace softmax_ext::cuda
