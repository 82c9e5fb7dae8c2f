// Derivatives of logsumexp, L = log Σ exp(x/T): dL/dx = p/T and dL/dT = −Σ p·x / T², p the softmax
// of x/T.

#include <ATen/ops/isneginf.h>
#include <ATen/ops/ones_like.h>

#include "csrc/autograd/formulas.h"
#include "csrc/autograd/node.h"
#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"
#include "csrc/registration.h"

namespace softmax_ext::autograd {
namespace {

// p, with 0 in a row of −inf alone, where softmax is undefined but the gradient of logsumexp is 0.
Tensor row_probs(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    at::ScalarType lane) {
  const Tensor probs = primitive::softmax(self, temperature, dim, scale, code_of_dtype(lane));
  const Tensor sums = primitive::logsumexp(self, temperature, dim, scale, code_of_dtype(lane));
  return probs.masked_fill(at::isneginf(sums), 0);
}

struct LogSumExpNode : OpNode<LogSumExpNode> {
  static constexpr const char* kName = "SoftmaxExtLogSumExpBackward0";
  SavedInput self;
  SavedInput temperature;
  int64_t dim;
  double scale;
  auto members() { return std::tie(self, temperature, dim, scale); }

  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>& needed,
      const Tensor& self,
      const Tensor& saved_temperature,
      int64_t dim,
      double scale) {
    const auto temperature = if_defined(saved_temperature);
    if (!needed[1])
      return {primitive::logsumexp_backward(grads[0], self, temperature, dim, scale), Tensor()};
    const Tensor logits = self.to(saved_temperature.scalar_type());
    const Tensor grad_logits =
        primitive::logsumexp_backward(grads[0], logits, temperature, dim, scale);
    return {
        grad_logits.to(self.scalar_type()),
        temperature_gradient(grad_logits, finite_logits(logits), saved_temperature)};
  }
};

Tensor logsumexp(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype) {
  const auto node = node_for<LogSumExpNode>(self, temperature);
  Tensor result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = primitive::logsumexp(self, temperature, dim, scale, dtype);
  }
  if (node) torch_autograd::set_history(result, node);
  if (has_forward_gradient(self, temperature)) {
    const auto lane = lane_dtype(self.scalar_type(), result.scalar_type());
    const Tensor x = primal(self);
    const auto t = primal(temperature);
    auto logits_tangent = tangent(self);
    if (const auto of_temperature = tangent(temperature))
      logits_tangent = sum_of(
          logits_tangent, temperature_tangent(finite_logits(x.to(lane)), *t, *of_temperature));
    const Tensor through_probs = row_sum(row_probs(x, t, dim, scale, lane) * *logits_tangent, dim);
    const Tensor result_tangent =
        divided_by_temperature(through_probs, t, scale).to(result.scalar_type());
    result._set_fw_grad(result_tangent, 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->self = self;
    node->temperature = temperature;
    node->dim = dim;
    node->scale = scale;
    node_ready(node);
  }
  return result;
}

// dx = g·p/T, a function of g, x and T.
struct LogSumExpBackwardNode : OpNode<LogSumExpBackwardNode> {
  static constexpr const char* kName = "SoftmaxExtLogSumExpBackwardBackward0";
  SavedInput grad;
  SavedInput self;
  SavedInput temperature;
  int64_t dim;
  double scale;
  auto members() { return std::tie(grad, self, temperature, dim, scale); }

  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>& needed,
      const Tensor& grad,
      const Tensor& self,
      const Tensor& saved_temperature,
      int64_t dim,
      double scale) {
    const auto temperature = if_defined(saved_temperature);
    const auto lane = lane_dtype(self.scalar_type(), grad.scalar_type());
    const Tensor v = grads[0].to(lane);
    variable_list results(3);
    if (needed[0]) {
      const Tensor probs = row_probs(self, temperature, dim, scale, lane);
      results[0] = divided_by_temperature(row_sum(v * probs, dim), temperature, scale)
                       .to(grad.scalar_type());
    }
    if (needed[1] || needed[2]) {
      const Tensor probs = row_probs(self, temperature, dim, scale, lane);
      const Tensor of_probs = divided_by_temperature(v * grad.to(lane), temperature, scale);
      const Tensor of_logits = primitive::softmax_backward(
          of_probs, probs, temperature, dim, scale, code_of_dtype(lane));
      if (needed[1]) results[1] = of_logits.to(self.scalar_type());
      if (needed[2]) {
        const Tensor grad_logits =
            divided_by_temperature(grad.to(lane) * probs, temperature, scale);
        results[2] =
            temperature_gradient(of_logits, centred_logits(self.to(lane), dim), saved_temperature) +
            temperature_gradient(v, grad_logits, saved_temperature);
      }
    }
    return results;
  }
};

Tensor logsumexp_backward(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale) {
  const auto node = node_for<LogSumExpBackwardNode>(grad, self, temperature);
  Tensor grad_input;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    grad_input = primitive::logsumexp_backward(grad, self, temperature, dim, scale);
  }
  if (node) torch_autograd::set_history(grad_input, node);
  if (has_forward_gradient(grad, self, temperature)) {
    const auto lane = lane_dtype(self.scalar_type(), grad.scalar_type());
    const Tensor g = primal(grad).to(lane), x = primal(self);
    const auto t = primal(temperature);
    const Tensor probs = row_probs(x, t, dim, scale, lane);
    optional<Tensor> result;
    if (const auto of_grad = tangent(grad))
      result = divided_by_temperature(*of_grad * probs, t, scale);
    auto logits_tangent = tangent(self);
    if (const auto of_temperature = tangent(temperature)) {
      const Tensor grad_logits = divided_by_temperature(g * probs, t, scale);
      result = sum_of(result, temperature_tangent(grad_logits, *t, *of_temperature));
      const Tensor logits = centred_logits(x.to(lane), dim);
      logits_tangent = sum_of(logits_tangent, temperature_tangent(logits, *t, *of_temperature));
    }
    if (logits_tangent) {
      const Tensor probs_tangent = primitive::softmax_backward(
          logits_tangent->to(lane), probs, t, dim, scale, code_of_dtype(lane));
      result = sum_of(result, divided_by_temperature(g * probs_tangent, t, scale));
    }
    grad_input._set_fw_grad(result->to(grad_input.scalar_type()), 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->grad = grad;
    node->self = self;
    node->temperature = temperature;
    node->dim = dim;
    node->scale = scale;
    node_ready(node);
  }
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::autograd

SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  m.impl("_logsumexp", &softmax_ext::autograd::logsumexp);
  m.impl("_logsumexp_backward", &softmax_ext::autograd::logsumexp_backward);
}
