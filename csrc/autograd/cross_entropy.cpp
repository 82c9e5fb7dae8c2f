// Derivatives of the loss of a row, −log p[target]: dx = g·(p − [j = target]), 0 in ignored rows.

#include <ATen/ops/eq.h>
#include <ATen/ops/ones_like.h>

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
  return value.masked_fill(target.eq(at::Scalar(ignore_index)).unsqueeze(dim), 0);
}

struct CrossEntropyNode : OpNode<CrossEntropyNode> {
  static constexpr const char* kName = "SoftmaxExtCrossEntropyBackward0";
  SavedInput self;
  SavedInput target;
  SavedInput max;  // outputs, but not differentiable ones: they hold no reference to this node
  SavedInput log_sum;
  int64_t dim;
  c10::SymInt ignore_index;
  auto members() { return std::tie(self, target, max, log_sum, dim, ignore_index); }

  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>&,
      const Tensor& self,
      const Tensor& target,
      const Tensor& max,
      const Tensor& log_sum,
      int64_t dim,
      const c10::SymInt& ignore_index) {
    return {
        primitive::cross_entropy_backward(grads[0], self, target, max, log_sum, dim, ignore_index)};
  }
};

std::tuple<Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt ignore_index) {
  const auto node = node_for<CrossEntropyNode>(self);
  std::tuple<Tensor, Tensor, Tensor> results;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    results = primitive::cross_entropy(self, target, dim, ignore_index);
  }
  const auto& [loss, max, log_sum] = results;
  if (node) torch_autograd::set_history(loss, node);
  if (has_forward_gradient(self)) {
    const auto lane = max.scalar_type();
    const Tensor grad_logits = primitive::cross_entropy_backward(
        at::ones_like(max), primal(self).to(lane), target, max, log_sum, dim, ignore_index);
    const Tensor products = grad_logits * tangent(self)->to(lane);
    loss._set_fw_grad(
        without_ignored(products, target, dim, ignore_index).sum(dim), 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->self = self;
    node->target = target;
    node->max = max;
    node->log_sum = log_sum;
    node->dim = dim;
    node->ignore_index = std::move(ignore_index);
    node_ready(node);
  }
  return results;
}

// The derivative for `self` is the total one: `max` and `log_sum` are functions of it.
struct CrossEntropyBackwardNode : OpNode<CrossEntropyBackwardNode> {
  static constexpr const char* kName = "SoftmaxExtCrossEntropyBackwardBackward0";
  SavedInput grad;
  SavedInput self;
  SavedInput target;
  SavedInput max;
  SavedInput log_sum;
  int64_t dim;
  c10::SymInt ignore_index;
  auto members() { return std::tie(grad, self, target, max, log_sum, dim, ignore_index); }

  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>& needed,
      const Tensor& grad,
      const Tensor& self,
      const Tensor& target,
      const Tensor& max,
      const Tensor& log_sum,
      int64_t dim,
      const c10::SymInt& ignore_index) {
    variable_list results(2);
    const Tensor v = grads[0].to(grad.scalar_type());
    if (needed[0]) {
      const Tensor grad_logits = primitive::cross_entropy_backward(
          at::ones_like(grad),
          self.to(grad.scalar_type()),
          target,
          max,
          log_sum,
          dim,
          ignore_index);
      results[0] = without_ignored(v * grad_logits, target, dim, ignore_index).sum(dim);
    }
    if (needed[1]) {
      const auto lane = code_of_dtype(grad.scalar_type());
      const Tensor probs = primitive::softmax(self, std::nullopt, dim, 1.0, lane);
      const Tensor of_logits =
          primitive::softmax_backward(v * grad.unsqueeze(dim), probs, std::nullopt, dim, 1.0, lane);
      results[1] = without_ignored(of_logits, target, dim, ignore_index).to(self.scalar_type());
    }
    return results;
  }
};

Tensor cross_entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& max,
    const Tensor& log_sum,
    int64_t dim,
    c10::SymInt ignore_index) {
  const auto node = node_for<CrossEntropyBackwardNode>(grad, self);
  Tensor grad_input;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    grad_input =
        primitive::cross_entropy_backward(grad, self, target, max, log_sum, dim, ignore_index);
  }
  if (node) torch_autograd::set_history(grad_input, node);
  if (has_forward_gradient(grad, self)) {
    const Tensor g = primal(grad), x = primal(self);
    optional<Tensor> result;
    if (const auto of_grad = tangent(grad)) {
      const Tensor logits = x.to(g.scalar_type());
      result = primitive::cross_entropy_backward(
          *of_grad, logits, target, max, log_sum, dim, ignore_index);
    }
    if (const auto of_logits = tangent(self)) {
      const auto lane = code_of_dtype(g.scalar_type());
      const Tensor probs = primitive::softmax(x, std::nullopt, dim, 1.0, lane);
      const Tensor probs_tangent = primitive::softmax_backward(
          of_logits->to(g.scalar_type()), probs, std::nullopt, dim, 1.0, lane);
      const Tensor through_probs =
          without_ignored(g.unsqueeze(dim) * probs_tangent, target, dim, ignore_index);
      result = sum_of(result, through_probs);
    }
    grad_input._set_fw_grad(result->to(grad_input.scalar_type()), 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->grad = grad;
    node->self = self;
    node->target = target;
    node->max = max;
    node->log_sum = log_sum;
    node->dim = dim;
    node->ignore_index = std::move(ignore_index);
    node_ready(node);
  }
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::autograd

SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  m.impl("_cross_entropy", &softmax_ext::autograd::cross_entropy);
  m.impl("_cross_entropy_backward", &softmax_ext::autograd::cross_entropy_backward);
}
