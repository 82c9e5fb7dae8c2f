// The C++ API as a LibTorch program sees it: the header and the library, no Python.

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/max.h>
#include <ATen/ops/min.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "csrc/softmax_ext.h"

namespace {

using at::Tensor;

Tensor logits() { return at::randn({4, 7}, at::kDouble).requires_grad_(); }

// The largest difference between two tensors' values and between the gradients that they send to
// `input`.
void expect_equal_with_gradients(const Tensor& actual, const Tensor& expected, Tensor input) {
  EXPECT_TRUE(at::allclose(actual, expected, 1e-12, 1e-12));
  const auto gradient = [&](const Tensor& result) {
    input.mutable_grad() = Tensor();
    result.pow(2).sum().backward();
    return input.grad().clone();
  };
  EXPECT_TRUE(at::allclose(gradient(actual), gradient(expected), 1e-12, 1e-12));
}

TEST(Api, SoftmaxFamilyHasTorchsValuesAndGradients) {
  const Tensor x = logits();
  expect_equal_with_gradients(softmax_ext::softmax(x, -1), at::softmax(x, -1), x);
  expect_equal_with_gradients(softmax_ext::log_softmax(x, 0), at::log_softmax(x, 0), x);
  expect_equal_with_gradients(
      softmax_ext::logsumexp(x, {0, 1}), at::logsumexp(x, at::IntArrayRef{0, 1}), x);
}

TEST(Api, TemperatureIsANumberOrADifferentiableTensor) {
  const Tensor x = logits();
  expect_equal_with_gradients(softmax_ext::softmax(x, 1, {}, 0.7), at::softmax(x / 0.7, 1), x);
  expect_equal_with_gradients(
      softmax_ext::log_softmax(x, 1, {}, 0.7), at::log_softmax(x / 0.7, 1), x);
  expect_equal_with_gradients(
      softmax_ext::logsumexp(x, {1}, true, 0.7),
      at::logsumexp(x / 0.7, at::IntArrayRef{1}, true),
      x);
  const Tensor t = at::tensor(0.7, at::kDouble).requires_grad_();
  expect_equal_with_gradients(softmax_ext::softmax(x, 1, {}, t), at::softmax(x / t, 1), t);
}

TEST(Api, CrossEntropyHasTorchsValueAndGradient) {
  const Tensor x = logits();
  const Tensor target = at::tensor({0, 3, -100, 6}, at::kLong);
  expect_equal_with_gradients(
      softmax_ext::cross_entropy(x, target), at::cross_entropy_loss(x, target), x);
  expect_equal_with_gradients(
      softmax_ext::cross_entropy(x * 1, target, {.gradient = "inplace"}),
      at::cross_entropy_loss(x, target),
      x);
  const Tensor weight = at::arange(1, 8, at::kDouble);
  expect_equal_with_gradients(
      softmax_ext::cross_entropy(x, target, {.weight = weight, .label_smoothing = 0.1}),
      at::cross_entropy_loss(x, target, weight, at::Reduction::Mean, -100, 0.1),
      x);
}

TEST(Api, SampleDrawsWhatTheFiltersKeep) {
  const Tensor logits = at::tensor({0.0, 3.0, 2.0, 1.0}, at::kDouble).expand({50, 4});
  const auto [first, log_probs] =
      softmax_ext::sample(logits, {.temperature = 0, .seed = at::scalar_tensor(5, at::kLong)});
  EXPECT_TRUE(at::equal(first, at::full({50, 1}, 1, at::kLong)));
  EXPECT_TRUE(at::equal(log_probs, at::zeros({50, 1}, at::kDouble)));
  const auto kept = std::get<0>(softmax_ext::sample(logits, {.top_k = 2, .num_samples = 20}));
  EXPECT_EQ(kept.min().item<int64_t>(), 1);
  EXPECT_EQ(kept.max().item<int64_t>(), 2);
  EXPECT_THROW(softmax_ext::sample(logits, {.top_p = -1}), c10::ValueError);
}

TEST(Api, ErrorsAreTorchsClasses) {
  const Tensor x = at::ones({2, 3});
  EXPECT_THROW(softmax_ext::softmax(x, 2), c10::IndexError);
  EXPECT_THROW(softmax_ext::softmax(x, 1, {}, -1.0), c10::ValueError);
  EXPECT_THROW(softmax_ext::softmax(x.to(at::kLong), 1), c10::NotImplementedError);
  EXPECT_THROW(softmax_ext::cross_entropy(x, at::tensor({0, 3}, at::kLong)), c10::IndexError);
}

TEST(Api, TellsItsVersion) { EXPECT_STREQ(softmax_ext_version(), SOFTMAX_EXT_VERSION); }

}  // namespace
