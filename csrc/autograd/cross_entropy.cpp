// Derivatives of the cross-entropy loss (csrc/losses.h). Kernels make the gradient of the logits; what else
// there is, is in loss_formulas.h.

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/graph_task.h>

#include <vector>

#include "csrc/autograd/saved_loss.h"

namespace softmax_ext::autograd {
namespace {

Loss loss_of(
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    const LossArguments& loss) {
  return {
      self,
      target,
      count,
      statistics,
      wrapped_dim("cross_entropy", loss.dim, self.dim()),
      loss.reduction,
      loss.ignore_index,
      loss.weight.value_or(Tensor()),
      loss.temperature.value_or(Tensor()),
      loss.scale,
      loss.label_smoothing,
      loss.softcap,
      loss.z_loss};
}

// That of the result, of which none may have come.
Tensor grad_of_result(const Loss& loss, const Tensor& grad) {
  if (grad.defined()) return grad;
  const bool is_none = loss.reduction == Reduction::none;
  return at::zeros_symint(
      is_none ? loss.statistics.select(0, 0).sym_sizes() : loss.count.sym_sizes(),
      loss.statistics.options());
}

struct CrossEntropyNode : OpNode<CrossEntropyNode> {
  static constexpr const char* kName = "SoftmaxExtCrossEntropyBackward0";
  SavedLoss loss;
  auto members() { return loss.members(); }

  template <typename... Values>
  static variable_list vjp(
      const variable_list& grads, const std::vector<bool>& needed, const Values&... values) {
    const Loss loss{values...};
    const Tensor grad = grad_of_result(loss, grads[0]);
    const Tensor of_logsumexp = grads.size() > 1 ? grads[1] : Tensor();
    variable_list results(4);
    if (needed[0])
      results[0] = call_loss_backward(
          primitive::cross_entropy_backward,
          grad,
          if_defined(of_logsumexp),
          loss.self,
          loss.target,
          loss.count,
          loss.statistics,
          loss.arguments());
    differentiate_others(loss, grad, of_logsumexp, needed, results);
    return results;
  }
};

// Where the forward pass made the gradient already: in a tensor of its own, or in place of `self`.
struct CrossEntropyWithGradientNode : OpNode<CrossEntropyWithGradientNode> {
  static constexpr const char* kName = "SoftmaxExtCrossEntropyWithGradientBackward0";
  SavedInput gradient;  // absent where it is `self`
  SavedLoss loss;
  auto members() { return std::tuple_cat(std::tie(gradient), loss.members()); }

  template <typename... Values>
  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>& needed,
      const Tensor& gradient,
      const Values&... values) {
    const Loss loss{values...};
    const Tensor& grad = grads[0];
    const bool is_in_place = !gradient.defined();
    variable_list results(4);
    if (needed[0]) results[0] = of_self(loss, grad, gradient);
    if (!is_in_place) differentiate_others(loss, grad, Tensor(), needed, results);
    return results;
  }

  // A second time the logits hold a gradient that was scaled. Their version says so, but not where
  // hooks pack what was saved.
  variable_list apply(variable_list&& grads) override {
    auto results = OpNode::apply(std::move(grads));
    TORCH_CHECK(
        gradient.variable || !has_run_,
        "cross_entropy: expected one backward after gradient='inplace', got a second; use "
        "'forward' or 'recompute'");
    has_run_ = true;
    return results;
  }

 private:
  static Tensor of_self(const Loss& loss, const Tensor& grad, const Tensor& gradient) {
    const Tensor& self = loss.self;
    const bool is_in_place = !gradient.defined();
    if (c10::GradMode::is_enabled() ||
        has_forward_gradient(grad, self, loss.target, loss.weight, loss.temperature)) {
      TORCH_CHECK(
          !is_in_place,
          "cross_entropy: gradient='inplace' has no derivative of its derivative (create_graph or "
          "forward mode), as the logits were overwritten; use 'forward' or 'recompute'");
      return call_loss_backward(
          primitive::cross_entropy_backward,
          grad,
          std::nullopt,
          self,
          loss.target,
          loss.count,
          loss.statistics,
          loss.arguments());
    }
    // Scaled in place where nobody asks for it a second time. What was made in place of the logits
    // never is asked for again: the write changes the version of what was saved.
    const bool is_last = !torch_autograd::get_current_graph_task_keep_graph() &&
                         !at::isTensorSubclassLike(grad) && !at::isTensorSubclassLike(self);
    if (is_in_place || is_last) {
      const Tensor result = (is_in_place ? self : gradient).detach();
      primitive::scale_gradient(result, grad, loss.dim);
      return result;
    }
    Loss of_sums = loss;
    if (loss.reduction == Reduction::mean) of_sums.reduction = Reduction::sum;  // divided already
    const Tensor rows = row_gradients(of_sums, grad, Tensor()).loss;
    const Tensor scaled = (gradient * rows).to(gradient.scalar_type());
    if (!has_classes(loss.target)) return scaled;
    const Tensor is_ignored = loss.target.to(at::kLong).eq(at::Scalar(loss.ignore_index));
    return scaled.masked_fill(is_ignored.unsqueeze(loss.dim), 0);
  }

  bool has_run_ = false;
};

// The tangents of the result and of the log-sum-exps, from those of the inputs.
struct LossTangents {
  Tensor result;
  Tensor logsumexp;
};
LossTangents tangents(const Loss& dual, const Tensor& count, bool has_logsumexp) {
  Loss loss = dual;
  loss.count = count;
  loss.self = primal(dual.self);
  loss.target = primal(dual.target);
  if (dual.weight.defined()) loss.weight = primal(dual.weight);
  if (dual.temperature.defined()) loss.temperature = primal(dual.temperature);
  const LossFormulas formulas(loss);
  const auto of_rows = [&](const RowGradients& grads) {
    optional<Tensor> sum;
    const auto lane = loss.statistics.scalar_type();
    const auto add = [&](const Tensor& gradient, const Tensor& direction) {
      sum = sum_of(sum, row_sum(gradient * direction.to(lane), loss.dim));
    };
    // Ignored rows may hold anything.
    if (const auto direction = tangent(dual.self))
      add(formulas.of_logits(grads), formulas.unless_ignored(*direction));
    if (const auto direction = tangent(dual.target)) add(formulas.of_target(grads), *direction);
    if (dual.weight.defined())
      if (auto direction = tangent(dual.weight)) {
        while (direction->dim() < loss.self.dim() - loss.dim) *direction = direction->unsqueeze(-1);
        add(formulas.of_weights(grads), *direction);
      }
    if (dual.temperature.defined())
      if (const auto direction = tangent(dual.temperature))
        add(formulas.of_temperature(grads), *direction);
    return *sum;
  };
  const Tensor like = loss.statistics.select(0, 0).unsqueeze(loss.dim);
  const Tensor ones = at::ones_like(like), zeros = at::zeros_like(like);
  return {
      reduced_rows(loss, of_rows({ones, Tensor()})),
      has_logsumexp ? of_rows({zeros, ones}).squeeze(loss.dim) : Tensor()};
}

bool has_tangent(const Tensor& self, const Tensor& target, const LossArguments& loss) {
  return has_forward_gradient(self, target, loss.weight, loss.temperature);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self, const Tensor& target, const LossArguments& loss, bool has_logsumexp) {
  check_weight_gradient(loss);
  const auto node = node_for<CrossEntropyNode>(self, target, loss.weight, loss.temperature);
  std::tuple<Tensor, Tensor, Tensor, Tensor> results;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    results = call_loss(primitive::cross_entropy, self, target, loss, has_logsumexp);
  }
  const auto& [result, count, statistics, logsumexp] = results;
  if (node && has_logsumexp)
    torch_autograd::set_history(variable_list{result, logsumexp}, node);
  else if (node)
    torch_autograd::set_history(result, node);
  if (has_tangent(self, target, loss)) {
    const auto of_results =
        tangents(loss_of(self, target, count, statistics, loss), count, has_logsumexp);
    result._set_fw_grad(of_results.result, 0, /*is_inplace_op=*/false);
    if (has_logsumexp) logsumexp._set_fw_grad(of_results.logsumexp, 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->loss.save(self, target, count, statistics, loss);
    node_ready(node);
  }
  return results;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_with_gradient(
    const Tensor& self, const Tensor& target, const LossArguments& loss) {
  check_weight_gradient(loss);
  const auto node =
      node_for<CrossEntropyWithGradientNode>(self, target, loss.weight, loss.temperature);
  std::tuple<Tensor, Tensor, Tensor, Tensor> results;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    results = call_loss(primitive::cross_entropy_with_gradient, self, target, loss);
  }
  const auto& [result, count, statistics, gradient] = results;
  if (node) torch_autograd::set_history(result, node);
  if (has_tangent(self, target, loss))
    result._set_fw_grad(
        tangents(loss_of(self, target, count, statistics, loss), count, false).result,
        0,
        /*is_inplace_op=*/false);
  if (node) {
    node->gradient = gradient;
    node->loss.save(self, target, count, statistics, loss);
    node_ready(node);
  }
  return results;
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_in_place(
    const Tensor& self, const Tensor& target, const LossArguments& loss) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !has_tangent(self, target, loss),
      "cross_entropy: gradient='inplace' has no forward-mode derivative; use 'forward' or "
      "'recompute'");
  TORCH_CHECK_NOT_IMPLEMENTED(
      !torch_autograd::compute_requires_grad(target, loss.weight, loss.temperature),
      "cross_entropy: gradient='inplace' has no gradient but that of the logits; use 'forward' or "
      "'recompute'");
  const auto node =
      node_for<CrossEntropyWithGradientNode>(self, target, loss.weight, loss.temperature);
  torch_autograd::check_inplace(self, /*requires_grad=*/node != nullptr);
  std::tuple<Tensor, Tensor, Tensor> results;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    results = call_loss(primitive::cross_entropy_in_place, self, target, loss);
  }
  const auto& [result, count, statistics] = results;
  if (node) {
    torch_autograd::set_history(result, node);
    node->loss.save(self, target, count, statistics, loss);
    node_ready(node);
  }
  return results;
}

// The derivative for `self` is the total one: `statistics` are functions of it.
struct CrossEntropyBackwardNode : OpNode<CrossEntropyBackwardNode> {
  static constexpr const char* kName = "SoftmaxExtCrossEntropyBackwardBackward0";
  SavedInput grad;
  SavedInput grad_logsumexp;
  SavedLoss loss;
  auto members() { return std::tuple_cat(std::tie(grad, grad_logsumexp), loss.members()); }

  template <typename... Values>
  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>& needed,
      const Tensor& grad,
      const Tensor& grad_logsumexp,
      const Values&... values) {
    const Loss loss{values...};
    const auto second = LossFormulas(loss).of_direction(
        row_gradients(loss, grad, grad_logsumexp), grads[0].to(grad.scalar_type()));
    variable_list results(6);
    if (needed[0]) results[0] = reduced_rows(loss, second.upstream.loss);
    if (needed[1]) results[1] = second.logits.to(loss.self.scalar_type());
    if (needed[2]) results[2] = to_target(loss, second.target);
    if (needed[3]) results[3] = to_weight(loss, second.weights);
    if (needed[4]) results[4] = to_temperature(loss, second.temperature);
    if (needed[5]) results[5] = second.upstream.logsumexp.squeeze(loss.dim);
    return results;
  }
};

Tensor cross_entropy_backward(
    const Tensor& grad,
    const optional<Tensor>& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    const LossArguments& loss) {
  // Dual tensors pass through the formula, whose operators know what to do with them.
  if (has_tangent(self, target, loss) || has_forward_gradient(grad, grad_logsumexp)) {
    const Loss values = loss_of(self, target, count, statistics, loss);
    const auto grads = row_gradients(values, grad, grad_logsumexp.value_or(Tensor()));
    return LossFormulas(values).of_logits(grads).to(self.scalar_type());
  }
  const auto node = node_for<CrossEntropyBackwardNode>(
      grad, self, target, loss.weight, loss.temperature, grad_logsumexp);
  Tensor grad_input;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    grad_input = call_loss_backward(
        primitive::cross_entropy_backward,
        grad,
        grad_logsumexp,
        self,
        target,
        count,
        statistics,
        loss);
  }
  if (node) {
    torch_autograd::set_history(grad_input, node);
    node->grad = grad;
    node->grad_logsumexp = grad_logsumexp;
    node->loss.save(self, target, count, statistics, loss);
    node_ready(node);
  }
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::autograd

SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  namespace autograd = softmax_ext::autograd;
  softmax_ext::register_losses<
      autograd::cross_entropy,
      autograd::cross_entropy_with_gradient,
      autograd::cross_entropy_in_place,
      autograd::cross_entropy_backward>(m);
}
