#pragma once
// The functions of outputs.h for the primitives of losses.

#include <tuple>

#include "csrc/losses.h"

namespace softmax_ext::outputs {

// What a loss asks of its logits and of what comes with them, with one error for each. `dim` is in
// [0, rank).
void check_loss_input(const char* op, const Tensor& self);
void check_class_target(const char* op, const Tensor& self, const Tensor& target, int64_t dim);
void check_probability_target(const char* op, const Tensor& self, const Tensor& target);
void check_class_weight(const char* op, const Tensor& self, const Tensor& weight, int64_t dim);

// Counts a write to `tensor` (Tensor._version), whose elements must all be different ones.
void check_writable(const char* op, const Tensor& tensor);

// (loss, count, statistics, logsumexp)
std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self, const Tensor& target, const LossArguments& loss, bool has_logsumexp);
// (loss, count, statistics, gradient)
std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_with_gradient(
    const Tensor& self, const Tensor& target, const LossArguments& loss);
// (loss, count, statistics): the gradient is `self`, and counts as a write to it.
std::tuple<Tensor, Tensor, Tensor> cross_entropy_in_place(
    const Tensor& self, const Tensor& target, const LossArguments& loss);
Tensor cross_entropy_backward(
    const Tensor& grad,
    const optional<Tensor>& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    const LossArguments& loss);
// [4, rows…]: (max, log-sum, loss, Σ q); filled for a shard of no classes.
Tensor cross_entropy_shard(const Tensor& self, const Tensor& target, const LossArguments& loss);
Tensor cross_entropy_shard_backward(
    const Tensor& grad,
    const Tensor& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& statistics,
    const LossArguments& loss);
// Those of signature::LinearCrossEntropy.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy(
    const LinearLayer& layer, const Tensor& target, const LossArguments& loss);
std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const Tensor& grad,
    const Tensor& count,
    const Tensor& statistics,
    const LinearLayer& layer,
    const Tensor& target,
    const LossArguments& loss);
// A tensor of the shape and the dtype of the logits, and without memory of their size.
Tensor logits_of(const LinearLayer& layer);
signature::ScaleGradient scale_gradient;
signature::ClassIndices class_indices;
signature::TemperatureStatistics temperature_statistics;

}  // namespace softmax_ext::outputs
