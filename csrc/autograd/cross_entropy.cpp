// Derivatives of the loss of a row, −log p[target]: dx = g·(p − [j = target]), 0 in ignored rows; g
// is the gradient of the result, divided by the number of rows for a mean.

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/ones_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/graph_task.h>

#include <vector>

#include "csrc/autograd/formulas.h"
#include "csrc/autograd/node.h"
#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"
#include "csrc/registration.h"

namespace softmax_ext::autograd {
namespace {

// value with 0 in ignored rows, whatever it holds there. `value` is of the logits' shape.
Tensor without_ignored(
    const Tensor& value, const Tensor& target, int64_t dim, const c10::SymInt& ignore_index) {
  // As int64: a scalar that the target's dtype does not hold would wrap.
  const Tensor is_ignored = target.to(at::kLong).eq(at::Scalar(ignore_index));
  return value.masked_fill(is_ignored.unsqueeze(dim), 0);
}

// The gradients of the rows' losses, of the target's shape, from that of the result.
Tensor gradients_of_rows(
    const Tensor& grad, const Tensor& count, const Tensor& target, int64_t reduction) {
  if (reduction == Reduction::none) return grad;
  Tensor rows = reduction == Reduction::mean ? grad / count.to(grad.scalar_type()) : grad;
  while (rows.dim() < target.dim()) rows = rows.unsqueeze(-1);
  return rows.expand_symint(target.sym_sizes());
}

// What a number of each row adds up to in the result.
Tensor reduced(const Tensor& rows, const Tensor& count, int64_t reduction) {
  if (reduction == Reduction::none) return rows;
  std::vector<int64_t> summed;
  for (int64_t dim = count.dim(); dim < rows.dim(); ++dim) summed.push_back(dim);
  const Tensor sums = summed.empty() ? rows : rows.sum(summed);
  return reduction == Reduction::mean ? sums / count.to(rows.scalar_type()) : sums;
}

// The derivative of each row's loss in the direction `tangent`, of the logits' shape.
Tensor tangents_of_rows(
    const Tensor& tangent,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    int64_t dim,
    const c10::SymInt& ignore_index) {
  const auto lane = statistics.scalar_type();
  const Tensor ones = at::ones_like(target, at::TensorOptions().dtype(lane));
  const Tensor of_logits = primitive::cross_entropy_backward(
      ones, self.to(lane), target, count, statistics, dim, Reduction::none, ignore_index);
  return without_ignored(of_logits * tangent.to(lane), target, dim, ignore_index).sum(dim);
}

struct CrossEntropyNode : OpNode<CrossEntropyNode> {
  static constexpr const char* kName = "SoftmaxExtCrossEntropyBackward0";
  SavedInput self;
  SavedInput target;
  SavedInput count;  // outputs, but not differentiable ones: they hold no reference to this node
  SavedInput statistics;
  int64_t dim;
  int64_t reduction;
  c10::SymInt ignore_index;
  auto members() { return std::tie(self, target, count, statistics, dim, reduction, ignore_index); }

  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>&,
      const Tensor& self,
      const Tensor& target,
      const Tensor& count,
      const Tensor& statistics,
      int64_t dim,
      int64_t reduction,
      const c10::SymInt& ignore_index) {
    return {primitive::cross_entropy_backward(
        grads[0], self, target, count, statistics, dim, reduction, ignore_index)};
  }
};

// Where the forward pass made the gradient already: in a tensor of its own, or in place of `self`.
struct CrossEntropyWithGradientNode : OpNode<CrossEntropyWithGradientNode> {
  static constexpr const char* kName = "SoftmaxExtCrossEntropyWithGradientBackward0";
  SavedInput gradient;  // absent where it is `self`
  SavedInput self;
  SavedInput target;
  SavedInput count;
  SavedInput statistics;
  int64_t dim;
  int64_t reduction;
  c10::SymInt ignore_index;
  auto members() {
    return std::tie(gradient, self, target, count, statistics, dim, reduction, ignore_index);
  }

  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>&,
      const Tensor& gradient,
      const Tensor& self,
      const Tensor& target,
      const Tensor& count,
      const Tensor& statistics,
      int64_t dim,
      int64_t reduction,
      const c10::SymInt& ignore_index) {
    const Tensor& grad = grads[0];
    const bool is_in_place = !gradient.defined();
    if (c10::GradMode::is_enabled() || has_forward_gradient(grad, self)) {
      TORCH_CHECK(
          !is_in_place,
          "cross_entropy: gradient='inplace' has no derivative of its derivative (create_graph or "
          "forward mode), as the logits were overwritten; use 'forward' or 'recompute'");
      return {primitive::cross_entropy_backward(
          grad, self, target, count, statistics, dim, reduction, ignore_index)};
    }
    // Scaled in place where nobody asks for it a second time. What was made in place of the logits
    // never is asked for again: the write changes the version of what was saved.
    const bool is_last = !torch_autograd::get_current_graph_task_keep_graph() &&
                         !at::isTensorSubclassLike(grad) && !at::isTensorSubclassLike(self);
    if (is_in_place || is_last) {
      const Tensor result = (is_in_place ? self : gradient).detach();
      primitive::scale_gradient(result, grad, dim);
      return {result};
    }
    const Tensor rows = gradients_of_rows(grad, count, target, Reduction::sum);
    const Tensor scaled = (gradient * rows.unsqueeze(dim)).to(gradient.scalar_type());
    return {without_ignored(scaled, target, dim, ignore_index)};
  }

  // A second time the logits hold a gradient that was scaled. Their version says so, but not where
  // hooks pack what was saved.
  variable_list apply(variable_list&& grads) override {
    auto results = OpNode::apply(std::move(grads));
    TORCH_CHECK(
        gradient.variable || !has_run_,
        "cross_entropy: expected one backward after gradient='inplace', got a second; use "
        "'forward' "
        "or 'recompute'");
    has_run_ = true;
    return results;
  }

 private:
  bool has_run_ = false;
};

std::tuple<Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  const auto node = node_for<CrossEntropyNode>(self);
  std::tuple<Tensor, Tensor, Tensor> results;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    results = primitive::cross_entropy(self, target, dim, reduction, leading, ignore_index);
  }
  const auto& [loss, count, statistics] = results;
  if (node) torch_autograd::set_history(loss, node);
  if (const auto of_self = tangent(self)) {
    const Tensor of_rows =
        tangents_of_rows(*of_self, primal(self), target, count, statistics, dim, ignore_index);
    loss._set_fw_grad(reduced(of_rows, count, reduction), 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->self = self;
    node->target = target;
    node->count = count;
    node->statistics = statistics;
    node->dim = dim;
    node->reduction = reduction;
    node->ignore_index = std::move(ignore_index);
    node_ready(node);
  }
  return results;
}

void save(
    CrossEntropyWithGradientNode& node,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    int64_t dim,
    int64_t reduction,
    c10::SymInt ignore_index) {
  node.self = self;
  node.target = target;
  node.count = count;
  node.statistics = statistics;
  node.dim = dim;
  node.reduction = reduction;
  node.ignore_index = std::move(ignore_index);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_with_gradient(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  const auto node = node_for<CrossEntropyWithGradientNode>(self);
  std::tuple<Tensor, Tensor, Tensor, Tensor> results;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    results =
        primitive::cross_entropy_with_gradient(self, target, dim, reduction, leading, ignore_index);
  }
  const auto& [loss, count, statistics, gradient] = results;
  if (node) torch_autograd::set_history(loss, node);
  if (const auto of_self = tangent(self)) {
    const Tensor of_rows =
        tangents_of_rows(*of_self, primal(self), target, count, statistics, dim, ignore_index);
    loss._set_fw_grad(reduced(of_rows, count, reduction), 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->gradient = gradient;
    save(*node, self, target, count, statistics, dim, reduction, std::move(ignore_index));
    node_ready(node);
  }
  return results;
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_in_place(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !has_forward_gradient(self),
      "cross_entropy: gradient='inplace' has no forward-mode derivative; use 'forward' or "
      "'recompute'");
  const auto node = node_for<CrossEntropyWithGradientNode>(self);
  torch_autograd::check_inplace(self, /*requires_grad=*/node != nullptr);
  std::tuple<Tensor, Tensor, Tensor> results;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    results =
        primitive::cross_entropy_in_place(self, target, dim, reduction, leading, ignore_index);
  }
  const auto& [loss, count, statistics] = results;
  if (node) {
    torch_autograd::set_history(loss, node);
    save(*node, self, target, count, statistics, dim, reduction, std::move(ignore_index));
    node_ready(node);
  }
  return results;
}

// The derivative for `self` is the total one: `statistics` are functions of it.
struct CrossEntropyBackwardNode : OpNode<CrossEntropyBackwardNode> {
  static constexpr const char* kName = "SoftmaxExtCrossEntropyBackwardBackward0";
  SavedInput grad;
  SavedInput self;
  SavedInput target;
  SavedInput count;
  SavedInput statistics;
  int64_t dim;
  int64_t reduction;
  c10::SymInt ignore_index;
  auto members() {
    return std::tie(grad, self, target, count, statistics, dim, reduction, ignore_index);
  }

  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>& needed,
      const Tensor& grad,
      const Tensor& self,
      const Tensor& target,
      const Tensor& count,
      const Tensor& statistics,
      int64_t dim,
      int64_t reduction,
      const c10::SymInt& ignore_index) {
    variable_list results(2);
    const auto lane = grad.scalar_type();
    const Tensor v = grads[0].to(lane);
    if (needed[0])
      results[0] = reduced(
          tangents_of_rows(v, self, target, count, statistics, dim, ignore_index),
          count,
          reduction);
    if (needed[1]) {
      const Tensor rows = gradients_of_rows(grad, count, target, reduction).unsqueeze(dim);
      const auto code = code_of_dtype(lane);
      const Tensor probs = primitive::softmax(self, std::nullopt, dim, 1.0, code);
      const Tensor of_logits =
          primitive::softmax_backward(v * rows, probs, std::nullopt, dim, 1.0, code);
      results[1] = without_ignored(of_logits, target, dim, ignore_index).to(self.scalar_type());
    }
    return results;
  }
};

Tensor cross_entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    int64_t dim,
    int64_t reduction,
    c10::SymInt ignore_index) {
  const auto node = node_for<CrossEntropyBackwardNode>(grad, self);
  Tensor grad_input;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    grad_input = primitive::cross_entropy_backward(
        grad, self, target, count, statistics, dim, reduction, ignore_index);
  }
  if (node) torch_autograd::set_history(grad_input, node);
  if (has_forward_gradient(grad, self)) {
    const Tensor g = primal(grad), x = primal(self);
    const auto lane = g.scalar_type();
    optional<Tensor> result;
    if (const auto of_grad = tangent(grad))
      result = primitive::cross_entropy_backward(
          *of_grad, x.to(lane), target, count, statistics, dim, reduction, ignore_index);
    if (const auto of_logits = tangent(self)) {
      const auto code = code_of_dtype(lane);
      const Tensor probs = primitive::softmax(x, std::nullopt, dim, 1.0, code);
      const Tensor probs_tangent =
          primitive::softmax_backward(of_logits->to(lane), probs, std::nullopt, dim, 1.0, code);
      const Tensor rows = gradients_of_rows(g, count, target, reduction).unsqueeze(dim);
      result = sum_of(result, without_ignored(rows * probs_tangent, target, dim, ignore_index));
    }
    grad_input._set_fw_grad(result->to(grad_input.scalar_type()), 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->grad = grad;
    node->self = self;
    node->target = target;
    node->count = count;
    node->statistics = statistics;
    node->dim = dim;
    node->reduction = reduction;
    node->ignore_index = std::move(ignore_index);
    node_ready(node);
  }
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::autograd

SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  m.impl("_cross_entropy", &softmax_ext::autograd::cross_entropy);
  m.impl("_cross_entropy_with_gradient", &softmax_ext::autograd::cross_entropy_with_gradient);
  m.impl("_cross_entropy_in_place", &softmax_ext::autograd::cross_entropy_in_place);
  m.impl("_cross_entropy_backward", &softmax_ext::autograd::cross_entropy_backward);
}
