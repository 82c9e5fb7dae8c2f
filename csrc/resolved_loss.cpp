#include "csrc/resolved_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <limits>

#include "csrc/element_type.h"
#include "csrc/loss_outputs.h"
#include "csrc/primitives.h"

namespace softmax_ext::public_operator {

Loss resolved(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& temperature,
    double scale,
    const LossOptions& options) {
  const char* const op = "cross_entropy";
  TORCH_CHECK_VALUE(
      Reduction::none <= options.reduction && options.reduction <= Reduction::sum,
      "cross_entropy: expected reduction 0 (none), 1 (mean) or 2 (sum), got ",
      options.reduction);
  TORCH_CHECK(
      0 <= options.label_smoothing && options.label_smoothing <= 1,
      "cross_entropy: expected label_smoothing in [0, 1], got ",
      options.label_smoothing);
  TORCH_CHECK_VALUE(
      // What has no reciprocal in float32 is none.
      !options.softcap ||
          (*options.softcap > std::numeric_limits<float>::min() && std::isfinite(*options.softcap)),
      "cross_entropy: expected a finite softcap > 0, got ",
      options.softcap.value_or(0));
  TORCH_CHECK_VALUE(
      options.z_loss >= 0, "cross_entropy: expected z_loss >= 0, got ", options.z_loss);
  TORCH_CHECK_VALUE(
      options.empty == "nan" || options.empty == "zero",
      "cross_entropy: expected empty 'nan' or 'zero', got '",
      options.empty,
      "'");
  TORCH_CHECK_VALUE(
      options.gradient == "recompute" || options.gradient == "forward" ||
          options.gradient == "inplace",
      "cross_entropy: expected gradient 'recompute', 'forward' or 'inplace', got '",
      options.gradient,
      "'");
  TORCH_CHECK(
      self.dim() > 0,
      "cross_entropy: expected an input of shape [C] or [N, C, ...], got a 0-d tensor");
  outputs::check_loss_input(op, self);
  const bool is_one_sample = self.dim() == 1;
  const int64_t dim = is_one_sample ? 0 : 1;
  const auto lane = lane_dtype(self.scalar_type());
  Loss loss{
      .self = self,
      .target = target,
      .arguments = {
                    .dim = dim,
                    .reduction = options.reduction,
                    .leading = 0,
                    .ignore_index = options.ignore_index,
                    .weight = std::nullopt,
                    .temperature = std::nullopt,
                    .scale = scale,
                    .label_smoothing = options.label_smoothing,
                    .softcap = options.softcap.value_or(0),
                    .z_loss = options.z_loss}
  };
  const bool are_classes = has_classes(target);
  // As torch, one sample may come with its class in a tensor of one element.
  if (are_classes && is_one_sample && target.dim() == 1) loss.target = target.squeeze(0);
  if (!is_one_sample && loss.target.dim() > 0)
    TORCH_CHECK_VALUE(
        loss.target.sym_size(0).sym_eq(self.sym_size(0)).guard_or_true(__FILE__, __LINE__),
        "cross_entropy: expected a target for each of the ",
        self.sym_size(0),
        " samples, got ",
        loss.target.sym_size(0));
  if (are_classes) {
    outputs::check_class_target(op, self, loss.target, dim);
  } else {
    outputs::check_probability_target(op, self, target);
    TORCH_CHECK(
        options.ignore_index < 0,
        "cross_entropy: expected no ignore_index with a target of probabilities, got ",
        options.ignore_index);
    loss.target = target.to(lane);
  }
  if (options.weight && options.weight->defined()) {
    outputs::check_class_weight(op, self, *options.weight, dim);
    loss.arguments.weight = options.weight->to(lane);
  }
  if (temperature) {
    TORCH_CHECK(
        !temperature->is_complex(),
        "cross_entropy: expected a real temperature, got dtype ",
        temperature->scalar_type());
    loss.arguments.temperature = temperature->to(lane);
  }
  return loss;
}

double scale_of(double temperature) {
  TORCH_CHECK_VALUE(
      temperature >= 0, "cross_entropy: expected a temperature >= 0, got ", temperature);
  return 1 / std::abs(temperature);
}

bool is_differentiated(const optional<Tensor>& tensor) {
  return tensor && tensor->defined() && c10::GradMode::is_enabled() &&
         (tensor->requires_grad() || tensor->_fw_grad(0).defined());
}
bool other_gradients(const Loss& loss) {
  return is_differentiated(loss.target) || is_differentiated(loss.arguments.weight) ||
         is_differentiated(loss.arguments.temperature);
}

void check_logsumexp(const Loss& loss, bool has_logsumexp) {
  TORCH_CHECK_VALUE(
      (loss.arguments.z_loss == 0 && !has_logsumexp) || std::isfinite(loss.arguments.scale),
      "cross_entropy: expected a temperature > 0 with z_loss or a log-sum-exp, got 0");
}

namespace {

// Whether the logits can be overwritten by their gradient.
bool is_in_place(const Tensor& self) {
  constexpr c10::DispatchKeySet kTransformed{
      c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::FuncTorchBatched};
  TORCH_CHECK(
      !self.key_set().has_any(kTransformed),
      "cross_entropy: gradient='inplace' overwrites the logits, which torch.func needs; use "
      "'forward' or 'recompute'");
  // What traces a call keeps no memory to overwrite.
  if (at::isTensorSubclassLike(self)) return false;
  TORCH_CHECK(
      !self.is_leaf(),
      "cross_entropy: gradient='inplace' overwrites the logits, but they are a leaf that requires "
      "grad; expected the result of another operator");
  return true;
}

// As the user wants the gradient made: (loss, count).
std::pair<Tensor, Tensor> reduced_loss(const Loss& loss, std::string_view gradient) {
  const auto call = [&](const auto& primitive, const auto&... last) -> std::pair<Tensor, Tensor> {
    const auto results = call_loss(primitive, loss.self, loss.target, loss.arguments, last...);
    return {std::get<0>(results), std::get<1>(results)};
  };
  const bool is_trained = is_differentiated(loss.self);
  if (gradient == "recompute" || !is_trained) return call(primitive::cross_entropy, false);
  // Other gradients than that of the logits are made from these.
  const bool has_others = other_gradients(loss);
  if (gradient == "inplace" && is_in_place(loss.self) && !has_others)
    return call(primitive::cross_entropy_in_place);
  return call(primitive::cross_entropy_with_gradient);
}

}  // namespace

Tensor mean_by_weights(const Loss& loss, const Tensor& rows) {
  const auto& [self, target, arguments] = loss;
  if (!has_classes(target)) return rows.mean();
  const Tensor indices =
      primitive::class_indices(self, target, arguments.dim, arguments.ignore_index);
  const Tensor of_rows = arguments.weight->index_select(0, indices.flatten());
  const Tensor is_ignored = target.to(at::kLong).eq(at::Scalar(arguments.ignore_index)).flatten();
  return (rows.sum(at::kDouble) / of_rows.masked_fill(is_ignored, 0).sum(at::kDouble))
      .to(rows.scalar_type());
}

std::pair<Tensor, Tensor> cross_entropy_of(
    const Loss& loss, const LossOptions& options, bool has_logsumexp) {
  check_logsumexp(loss, has_logsumexp);
  const bool is_mean = options.reduction == Reduction::mean;
  LossArguments arguments = loss.arguments;
  const bool divides_by_weights = is_mean && is_differentiated(arguments.weight);
  if (divides_by_weights) arguments.reduction = Reduction::none;
  Tensor result, count, logsumexp;
  if (divides_by_weights || has_logsumexp)
    std::tie(result, count, std::ignore, logsumexp) =
        call_loss(primitive::cross_entropy, loss.self, loss.target, arguments, has_logsumexp);
  else
    std::tie(result, count) = reduced_loss(loss, options.gradient);
  if (divides_by_weights) result = mean_by_weights(loss, result);
  if (is_mean && options.empty == "zero") result = result.masked_fill(count == 0, 0);
  return {result, logsumexp};
}

}  // namespace softmax_ext::public_operator
