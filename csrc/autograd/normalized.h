#pragma once
// The derivatives that softmax and log_softmax have in common. `Family` names the two primitives
// and gives the formulas, for gradients g of the output y, v of the logits' gradient, and tangents
// u of y:
//
//   kName, kBackwardName
//   forward(self, temperature, dim, scale, dtype)
//   backward(grad, output, temperature, dim, scale, dtype)
//   jvp(tangent, output, temperature, dim, scale)        the tangent of y for that of the logits
//   backward_transposed(v, y, temperature, dim, scale)   what v means for g: the backward is linear
//                                                        in g
//   backward_output_vjp(v, g, y, dim)                    what v means for y, times T
//   backward_output_jvp(u, g, y, dim)                    the backward's tangent for u, times T

#include <torch/library.h>

#include "csrc/autograd/formulas.h"
#include "csrc/autograd/node.h"
#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"

namespace softmax_ext::autograd {

template <typename Family>
struct Normalized {
  struct ForwardNode : OpNode<ForwardNode> {
    static constexpr const char* kName = Family::kName;
    SavedOutput output;
    SavedInput self;  // only where the temperature takes a gradient
    SavedInput temperature;
    int64_t dim;
    double scale;
    int64_t self_dtype;
    auto members() { return std::tie(output, self, temperature, dim, scale, self_dtype); }

    static variable_list vjp(
        const variable_list& grads,
        const std::vector<bool>& needed,
        const Tensor& output,
        const Tensor& self,
        const Tensor& saved_temperature,
        int64_t dim,
        double scale,
        int64_t self_dtype) {
      const auto temperature = if_defined(saved_temperature);
      if (!needed[1])
        return {Family::backward(grads[0], output, temperature, dim, scale, self_dtype), Tensor()};
      const auto lane = saved_temperature.scalar_type();
      const Tensor grad_logits =
          Family::backward(grads[0], output, temperature, dim, scale, code_of_dtype(lane));
      const Tensor grad_temperature =
          temperature_gradient(grad_logits, centred_logits(self.to(lane), dim), saved_temperature);
      return {grad_logits.to(self.scalar_type()), grad_temperature};
    }
  };

  static Tensor forward(
      const Tensor& self,
      const optional<Tensor>& temperature,
      int64_t dim,
      double scale,
      optional<int64_t> dtype) {
    const auto node = node_for<ForwardNode>(self, temperature);
    Tensor output;
    {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      output = Family::forward(self, temperature, dim, scale, dtype);
    }
    if (node) torch_autograd::set_history(output, node);
    if (has_forward_gradient(self, temperature)) {
      const auto lane = lane_dtype(self.scalar_type(), output.scalar_type());
      auto logits_tangent = tangent(self);
      if (const auto t = tangent(temperature)) {
        const Tensor logits = centred_logits(primal(self).to(lane), dim);
        const Tensor through_temperature = temperature_tangent(logits, *primal(temperature), *t);
        logits_tangent = sum_of(logits_tangent, through_temperature);
      }
      const Tensor output_tangent =
          Family::jvp(logits_tangent->to(lane), output, primal(temperature), dim, scale);
      output._set_fw_grad(output_tangent, 0, /*is_inplace_op=*/false);
    }
    if (node) {
      node->output = output;
      if (torch_autograd::compute_requires_grad(temperature)) node->self = self;
      node->temperature = temperature;
      node->dim = dim;
      node->scale = scale;
      node->self_dtype = code_of_dtype(self.scalar_type());
      node_ready(node);
    }
    return output;
  }

  struct BackwardNode : OpNode<BackwardNode> {
    static constexpr const char* kName = Family::kBackwardName;
    SavedInput grad;
    SavedInput output;
    SavedInput temperature;
    int64_t dim;
    double scale;
    auto members() { return std::tie(grad, output, temperature, dim, scale); }

    static variable_list vjp(
        const variable_list& grads,
        const std::vector<bool>& needed,
        const Tensor& grad,
        const Tensor& output,
        const Tensor& saved_temperature,
        int64_t dim,
        double scale) {
      const auto temperature = if_defined(saved_temperature);
      const auto lane = lane_dtype(grads[0].scalar_type(), output.scalar_type());
      const Tensor v = grads[0].to(lane);
      variable_list results(3);
      if (needed[0]) results[0] = Family::backward_transposed(v, output, temperature, dim, scale);
      if (needed[1]) {
        const Tensor of_output =
            Family::backward_output_vjp(v, grad.to(lane), output.to(lane), dim);
        results[1] = divided_by_temperature(of_output, temperature, scale).to(output.scalar_type());
      }
      if (needed[2]) {
        const Tensor grad_logits =
            Family::backward(grad, output, temperature, dim, scale, code_of_dtype(lane));
        results[2] = temperature_gradient(v, grad_logits, saved_temperature);
      }
      return results;
    }
  };

  static Tensor backward(
      const Tensor& grad,
      const Tensor& output,
      const optional<Tensor>& temperature,
      int64_t dim,
      double scale,
      int64_t dtype) {
    const auto node = node_for<BackwardNode>(grad, output, temperature);
    Tensor grad_input;
    {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      grad_input = Family::backward(grad, output, temperature, dim, scale, dtype);
    }
    if (node) torch_autograd::set_history(grad_input, node);
    if (has_forward_gradient(grad, output, temperature)) {
      const auto lane = lane_dtype(output.scalar_type(), grad_input.scalar_type());
      const Tensor g = primal(grad), y = primal(output);
      const auto t = primal(temperature);
      optional<Tensor> result;
      if (const auto of_grad = tangent(grad))
        result = Family::backward(*of_grad, y, t, dim, scale, code_of_dtype(lane));
      if (const auto u = tangent(output)) {
        const Tensor of_output =
            Family::backward_output_jvp(u->to(lane), g.to(lane), y.to(lane), dim);
        result = sum_of(result, divided_by_temperature(of_output, t, scale));
      }
      if (const auto of_temperature = tangent(temperature)) {
        const Tensor grad_logits = Family::backward(g, y, t, dim, scale, code_of_dtype(lane));
        result = sum_of(result, temperature_tangent(grad_logits, *t, *of_temperature));
      }
      grad_input._set_fw_grad(result->to(grad_input.scalar_type()), 0, /*is_inplace_op=*/false);
    }
    if (node) {
      node->grad = grad;
      node->output = output;
      node->temperature = temperature;
      node->dim = dim;
      node->scale = scale;
      node_ready(node);
    }
    return grad_input;
  }
};

}  // namespace softmax_ext::autograd
