// The cross-entropy of a linear layer's outputs, with the options of cross_entropy.

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <c10/core/GradMode.h>

#include "csrc/loss_outputs.h"
#include "csrc/primitives.h"
#include "csrc/resolved_loss.h"

namespace softmax_ext::public_operator {
namespace {

// The rows of logits that fit in as much memory as `input` takes, or in kLeast elements.
c10::SymInt default_chunk(const Tensor& input, const Tensor& linear_weight) {
  constexpr int64_t kLeast = int64_t(1) << 24;
  const c10::SymInt elements = input.sym_numel().max(kLeast);
  return (elements / linear_weight.sym_size(0).max(1)).max(1);
}

// Where each class has several outputs, as in torch: the logits are made as a whole.
Tensor loss_of_logits(
    const Tensor& input,
    const Tensor& linear_weight,
    const Tensor& target,
    const optional<Tensor>& linear_bias,
    const optional<Tensor>& temperature,
    double scale,
    const LossOptions& options) {
  TORCH_CHECK(
      input.dim() == 2,
      "linear_cross_entropy: expected an input [N, features] for a linear_weight of shape ",
      linear_weight.sym_sizes(),
      ", got shape ",
      input.sym_sizes());
  TORCH_CHECK(
      linear_weight.sym_size(-1).sym_eq(input.sym_size(1)).guard_or_true(__FILE__, __LINE__),
      "linear_cross_entropy: expected ",
      input.sym_size(1),
      " features in the last dim of linear_weight, got shape ",
      linear_weight.sym_sizes());
  const auto outputs = linear_weight.sym_sizes().slice(0, linear_weight.dim() - 1);
  c10::SymDimVector sizes{input.sym_size(0)};
  sizes.append(outputs.begin(), outputs.end());
  optional<Tensor> bias;
  if (linear_bias && linear_bias->defined()) bias = linear_bias->reshape({-1});
  const Tensor logits =
      at::linear(input, linear_weight.reshape_symint({-1, input.sym_size(1)}), bias)
          .reshape_symint(sizes);
  return cross_entropy_of(resolved(logits, target, temperature, scale, options), options, false)
      .first;
}

Tensor linear_cross_entropy_of(
    const Tensor& input,
    const Tensor& linear_weight,
    const Tensor& target,
    const optional<Tensor>& linear_bias,
    const optional<Tensor>& temperature,
    double scale,
    const LossOptions& options,
    const optional<c10::SymInt>& chunk) {
  TORCH_CHECK_VALUE(
      options.gradient == "forward" || options.gradient == "recompute",
      "linear_cross_entropy: expected gradient 'forward' or 'recompute', got '",
      options.gradient,
      "'");
  TORCH_CHECK(
      input.dim() > 0 && linear_weight.dim() >= 2,
      "linear_cross_entropy: expected an input [..., features] and a linear_weight [classes, ..., "
      "features], got shapes ",
      input.sym_sizes(),
      " and ",
      linear_weight.sym_sizes());
  if (linear_weight.dim() > 2)
    return loss_of_logits(input, linear_weight, target, linear_bias, temperature, scale, options);
  // Rows of one matrix. Classes have one dim less than the logits.
  const bool are_classes = has_classes(target);
  const auto leading = input.sym_sizes().slice(0, input.dim() - 1);
  TORCH_CHECK(
      target.dim() == input.dim() - are_classes,
      "linear_cross_entropy: expected class indices of shape ",
      leading,
      " as target, or probabilities of as many dims as the input, got ",
      target.scalar_type(),
      " of shape ",
      target.sym_sizes());
  for (int64_t dim = 0; dim + 1 < input.dim(); ++dim)
    TORCH_CHECK_VALUE(
        target.sym_size(dim).sym_eq(leading[dim]).guard_or_true(__FILE__, __LINE__),
        "linear_cross_entropy: expected a target for each row of the input of shape ",
        input.sym_sizes(),
        ", got shape ",
        target.sym_sizes());
  const auto as_matrix = [](const Tensor& tensor) {
    return tensor.dim() == 1 ? tensor.unsqueeze(0) : tensor.flatten(0, -2);
  };
  const Tensor rows = input.dim() == 2 ? input : as_matrix(input);
  Tensor targets = target;
  if (input.dim() != 2) targets = are_classes ? target.reshape({-1}) : as_matrix(target);
  LinearLayer layer{
      rows, linear_weight, linear_bias, chunk ? *chunk : default_chunk(rows, linear_weight), {}};
  const Loss loss = resolved(outputs::logits_of(layer), targets, temperature, scale, options);
  check_logsumexp(loss, /*has_logsumexp=*/false);
  // Other gradients are made from all logits, and those of the layer with them.
  if (options.gradient == "forward" && options.reduction != Reduction::none &&
      !other_gradients(loss))
    layer.wanted = {
        is_differentiated(rows), is_differentiated(linear_weight), is_differentiated(linear_bias)};
  const bool is_mean = options.reduction == Reduction::mean;
  LossArguments arguments = loss.arguments;
  const bool divides_by_weights = is_mean && is_differentiated(arguments.weight);
  if (divides_by_weights) arguments.reduction = Reduction::none;
  const auto results =
      call_linear_loss(primitive::linear_cross_entropy, layer, loss.target, arguments);
  Tensor result = std::get<0>(results);
  if (divides_by_weights) result = mean_by_weights(loss, result);
  if (is_mean && options.empty == "zero") result = result.masked_fill(std::get<1>(results) == 0, 0);
  if (options.reduction == Reduction::none && input.dim() != 2)
    result = result.reshape_symint(input.sym_sizes().slice(0, input.dim() - 1));
  return result;
}

}  // namespace

Tensor linear_cross_entropy(
    const Tensor& input,
    const Tensor& linear_weight,
    const Tensor& target,
    const optional<Tensor>& linear_bias,
    const optional<Tensor>& weight,
    int64_t reduction,
    optional<c10::SymInt> ignore_index,
    double label_smoothing,
    const optional<Tensor>& temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty,
    std::string_view gradient,
    optional<c10::SymInt> chunk) {
  return linear_cross_entropy_of(
      input,
      linear_weight,
      target,
      linear_bias,
      temperature,
      1,
      {weight,
       reduction,
       ignore_index.value_or(-100),
       label_smoothing,
       softcap,
       z_loss,
       empty,
       gradient},
      chunk);
}

Tensor linear_cross_entropy_float(
    const Tensor& input,
    const Tensor& linear_weight,
    const Tensor& target,
    const optional<Tensor>& linear_bias,
    const optional<Tensor>& weight,
    int64_t reduction,
    optional<c10::SymInt> ignore_index,
    double label_smoothing,
    double temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty,
    std::string_view gradient,
    optional<c10::SymInt> chunk) {
  return linear_cross_entropy_of(
      input,
      linear_weight,
      target,
      linear_bias,
      std::nullopt,
      scale_of(temperature),
      {weight,
       reduction,
       ignore_index.value_or(-100),
       label_smoothing,
       softcap,
       z_loss,
       empty,
       gradient},
      chunk);
}

}  // namespace softmax_ext::public_operator
