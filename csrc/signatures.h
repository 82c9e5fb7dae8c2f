#pragma once
// The signatures of the primitives. Each is shared by the dispatcher call (primitives.h), the
// function that checks and allocates (outputs.h) and the kernels. What the arguments mean:
// library.cpp.

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

namespace softmax_ext {

using at::Tensor;
using std::optional;

// Of the losses of rows; the numbers are torch's.
enum Reduction : int64_t { none = 0, mean = 1, sum = 2 };

namespace signature {

// _softmax, _log_softmax, _logsumexp
using Normalize = Tensor(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype);

// _softmax_backward, _log_softmax_backward
using NormalizeBackward = Tensor(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    int64_t dtype);

// _softmax_into, _log_softmax_into: the result is written to `out`, whose dtype says theirs.
using NormalizeInto = void(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& out);

// _softmax_backward_into, _log_softmax_backward_into
using NormalizeBackwardInto = void(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& out);

using LogSumExpBackward = Tensor(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale);

// A causal mask is of the last two dims, queries and keys. `empty_is_zero`: what a row without any
// logit above −inf is, 0 or NaN.
using MaskedSoftmax = Tensor(
    const Tensor& self,
    const optional<Tensor>& mask,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype,
    bool is_causal,
    bool empty_is_zero);

using Entropy =
    Tensor(const Tensor& self, const optional<Tensor>& temperature, int64_t dim, double scale);
using EntropyBackward = LogSumExpBackward;

// (loss, count, statistics, logsumexp) of the loss that csrc/losses.h describes. `reduction`: the losses
// of the rows, or their mean or sum over all but the first `leading` dims; count: what the mean of each
// such sum divides by; statistics: max and log Σ exp((x − max) / T) of each row, [2, rows]; logsumexp:
// of each row, 0 in ignored ones, or of no elements unless `has_logsumexp`.
using CrossEntropy = std::tuple<Tensor, Tensor, Tensor, Tensor>(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss,
    bool has_logsumexp);

// (loss, count, statistics, gradient): the gradient of the loss too, for upstream gradients of 1.
using CrossEntropyWithGradient = std::tuple<Tensor, Tensor, Tensor, Tensor>(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss);

// (loss, count, statistics): the gradient is `self`.
using CrossEntropyInPlace = std::tuple<Tensor, Tensor, Tensor>(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss);

// grad_logsumexp: of each row, or nothing where it is 0.
using CrossEntropyBackward = Tensor(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    int64_t dim,
    int64_t reduction,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss,
    const optional<Tensor>& grad_logsumexp);

// (loss, count, statistics, and the gradients of input, linear_weight and linear_bias for an upstream
// gradient of 1, each of no elements unless it is `wanted`) of the logits input · linear_weightᵀ +
// linear_bias, of which there are `chunk` rows at a time. input [rows, features], linear_weight
// [classes, features].
using LinearCrossEntropy = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
    const Tensor& input,
    const Tensor& linear_weight,
    const optional<Tensor>& linear_bias,
    const Tensor& target,
    c10::SymInt chunk,
    std::array<bool, 3> wanted,
    int64_t reduction,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss);

// Those gradients, from what the forward pass left.
using LinearCrossEntropyBackward = std::tuple<Tensor, Tensor, Tensor>(
    const Tensor& grad,
    const Tensor& count,
    const Tensor& statistics,
    const Tensor& input,
    const Tensor& linear_weight,
    const optional<Tensor>& linear_bias,
    const Tensor& target,
    c10::SymInt chunk,
    std::array<bool, 3> wanted,
    int64_t reduction,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss);

// The targets as int64, 0 in ignored rows: each is a class of `self`.
using ClassIndices =
    Tensor(const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt ignore_index);

// `gradient` times what came for its loss, in place.
using ScaleGradient = void(const Tensor& gradient, const Tensor& grad, int64_t dim);

// Σ of [weight, loss, distance, expected distance, variance] over the rows (logit_moments.h), float64,
// at 1/T = scale. `target` holds classes, and `weight` one number per row; a row of weight 0 counts
// for nothing, whatever it holds.
using TemperatureStatistics = Tensor(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t dim,
    double scale);

// (index, log-probability) of each draw, [rows…, num_samples]. An option is that of the tensor, which
// broadcasts over the rows, where there is one; else the number.
using Sample = std::tuple<Tensor, Tensor>(
    const Tensor& self,
    const Tensor& seed,
    const optional<Tensor>& temperatures,
    const optional<Tensor>& top_ks,
    const optional<Tensor>& top_ps,
    const optional<Tensor>& min_ps,
    double scale,
    int64_t top_k,
    double top_p,
    double min_p,
    c10::SymInt num_samples);

}  // namespace signature
}  // namespace softmax_ext
