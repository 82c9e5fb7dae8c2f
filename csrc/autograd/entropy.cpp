// Derivatives of the entropy H of p = softmax(x/T). With a = log p + H, dH/dx = −p·a / T; and the
// second derivative along u, times T², is −p · ((u − Σ p·u)(a + 1) − Σ p·a·u).

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

// dH/dx in the dtype of the arithmetic.
Tensor slope(const Tensor& logits, const optional<Tensor>& temperature, int64_t dim, double scale) {
  const Tensor of_rows = primitive::entropy(logits, temperature, dim, scale).detach();
  return primitive::entropy_backward(at::ones_like(of_rows), logits, temperature, dim, scale);
}

// The second derivative along u. Logits of −inf have no part in it.
Tensor curvature_along(
    const Tensor& u,
    const Tensor& logits,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale) {
  const auto lane = code_of_dtype(logits.scalar_type());
  const Tensor log_probs = primitive::log_softmax(logits, temperature, dim, scale, lane);
  const Tensor probs = primitive::softmax(logits, temperature, dim, scale, lane);
  const Tensor a = (log_probs + primitive::entropy(logits, temperature, dim, scale))
                       .masked_fill(at::isneginf(log_probs), 0);
  const Tensor centred = u - row_sum(probs * u, dim);
  const Tensor along = -probs * (centred * (a + 1) - row_sum(probs * a * u, dim));
  return divided_by_temperature(
      divided_by_temperature(along, temperature, scale), temperature, scale);
}

struct EntropyNode : OpNode<EntropyNode> {
  static constexpr const char* kName = "SoftmaxExtEntropyBackward0";
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
      return {primitive::entropy_backward(grads[0], self, temperature, dim, scale), Tensor()};
    const Tensor logits = self.to(saved_temperature.scalar_type());
    const Tensor grad_logits =
        primitive::entropy_backward(grads[0], logits, temperature, dim, scale);
    return {
        grad_logits.to(self.scalar_type()),
        temperature_gradient(grad_logits, centred_logits(logits, dim), saved_temperature)};
  }
};

Tensor entropy(const Tensor& self, const optional<Tensor>& temperature, int64_t dim, double scale) {
  const auto node = node_for<EntropyNode>(self, temperature);
  Tensor result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = primitive::entropy(self, temperature, dim, scale);
  }
  if (node) torch_autograd::set_history(result, node);
  if (has_forward_gradient(self, temperature)) {
    const Tensor x = primal(self).to(result.scalar_type());
    const auto t = primal(temperature);
    auto logits_tangent = tangent(self);
    if (const auto of_temperature = tangent(temperature))
      logits_tangent =
          sum_of(logits_tangent, temperature_tangent(centred_logits(x, dim), *t, *of_temperature));
    result._set_fw_grad(
        row_sum(slope(x, t, dim, scale) * *logits_tangent, dim), 0, /*is_inplace_op=*/false);
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

// A function of the gradient of H, of x and of T.
struct EntropyBackwardNode : OpNode<EntropyBackwardNode> {
  static constexpr const char* kName = "SoftmaxExtEntropyBackwardBackward0";
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
    const Tensor v = grads[0].to(lane), g = grad.to(lane), x = self.to(lane);
    variable_list results(3);
    if (needed[0])
      results[0] = row_sum(v * slope(x, temperature, dim, scale), dim).to(grad.scalar_type());
    if (needed[1] || needed[2]) {
      const Tensor of_logits = curvature_along(v * g, x, temperature, dim, scale);
      if (needed[1]) results[1] = of_logits.to(self.scalar_type());
      if (needed[2]) {
        const Tensor grad_logits = primitive::entropy_backward(g, x, temperature, dim, scale);
        results[2] = temperature_gradient(of_logits, centred_logits(x, dim), saved_temperature) +
                     temperature_gradient(v, grad_logits, saved_temperature);
      }
    }
    return results;
  }
};

Tensor entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale) {
  const auto node = node_for<EntropyBackwardNode>(grad, self, temperature);
  Tensor grad_input;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    grad_input = primitive::entropy_backward(grad, self, temperature, dim, scale);
  }
  if (node) torch_autograd::set_history(grad_input, node);
  if (has_forward_gradient(grad, self, temperature)) {
    const auto lane = lane_dtype(self.scalar_type(), grad.scalar_type());
    const Tensor g = primal(grad).to(lane), x = primal(self).to(lane);
    const auto t = primal(temperature);
    optional<Tensor> result;
    if (const auto of_grad = tangent(grad))
      result = primitive::entropy_backward(of_grad->to(lane), x, t, dim, scale);
    auto logits_tangent = tangent(self);
    if (const auto of_temperature = tangent(temperature)) {
      const Tensor grad_logits = primitive::entropy_backward(g, x, t, dim, scale);
      result = sum_of(result, temperature_tangent(grad_logits, *t, *of_temperature));
      logits_tangent =
          sum_of(logits_tangent, temperature_tangent(centred_logits(x, dim), *t, *of_temperature));
    }
    if (logits_tangent)
      result = sum_of(result, g * curvature_along(logits_tangent->to(lane), x, t, dim, scale));
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
  m.impl("_entropy", &softmax_ext::autograd::entropy);
  m.impl("_entropy_backward", &softmax_ext::autograd::entropy_backward);
}
