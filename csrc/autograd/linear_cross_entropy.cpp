// Derivatives of the cross-entropy of a linear layer. Those of the layer are made chunk by chunk; all others,
// and those of higher order, by way of all logits.

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/linear.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/graph_task.h>

#include <vector>

#include "csrc/autograd/saved_loss.h"

namespace softmax_ext::autograd {
namespace {

// The gradients of input, linear_weight and linear_bias, from that of the logits.
variable_list through_layer(
    const Tensor& of_logits,
    const Tensor& input,
    const Tensor& weight,
    const std::vector<bool>& needed) {
  return {
      needed[0] ? of_logits.mm(weight) : Tensor(),
      needed[1] ? of_logits.t().mm(input) : Tensor(),
      needed[2] ? of_logits.sum(0) : Tensor()};
}

struct LinearCrossEntropyNode : OpNode<LinearCrossEntropyNode> {
  static constexpr const char* kName = "SoftmaxExtLinearCrossEntropyBackward0";
  // Those of the layer for an upstream gradient of 1, where the forward pass made them.
  SavedInput of_input;
  SavedInput of_weight;
  SavedInput of_bias;
  SavedInput bias;
  SavedInput layer_weight;
  c10::SymInt chunk;
  SavedLoss loss;  // with the layer's input as `self`
  auto members() {
    return std::tuple_cat(
        std::tie(of_input, of_weight, of_bias, bias, layer_weight, chunk), loss.members());
  }

  template <typename... Values>
  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>& needed,
      const Tensor& of_input,
      const Tensor& of_weight,
      const Tensor& of_bias,
      const Tensor& bias,
      const Tensor& layer_weight,
      const c10::SymInt& chunk,
      const Values&... values) {
    const Loss loss{values...};
    const Tensor& grad = grads[0];
    const Tensor& input = loss.self;
    variable_list results(6);
    // In the order of the inputs: those of the layer, target, weight, temperature.
    const bool needs_others = needed[3] || needed[4] || needed[5];
    if (c10::GradMode::is_enabled() || needs_others ||
        has_forward_gradient(grad, input, layer_weight, bias)) {
      Loss of_logits = loss;
      of_logits.self = at::linear(input, layer_weight, if_defined(bias));
      const Tensor gradient = call_loss_backward(
          primitive::cross_entropy_backward,
          grad,
          std::nullopt,
          of_logits.self,
          loss.target,
          loss.count,
          loss.statistics,
          of_logits.arguments());
      const auto of_layer = through_layer(gradient, input, layer_weight, needed);
      std::copy(of_layer.begin(), of_layer.end(), results.begin());
      variable_list others(4);
      differentiate_others(
          of_logits, grad, Tensor(), {false, needed[3], needed[4], needed[5]}, others);
      std::copy(others.begin() + 1, others.end(), results.begin() + 3);
      return results;
    }
    const bool is_last = !torch_autograd::get_current_graph_task_keep_graph() &&
                         !at::isTensorSubclassLike(grad) && !at::isTensorSubclassLike(input);
    const auto scaled = [&](const Tensor& gradient) {
      // With a dim: a number without one would be taken in 16 bits.
      if (!is_last || gradient.dim() == 1)
        return (gradient * grad.unsqueeze(0)).to(gradient.scalar_type());
      const Tensor result = gradient.detach();
      primitive::scale_gradient(result, grad, 1);
      return result;
    };
    std::array<bool, 3> wanted{};
    const Tensor* const made[] = {&of_input, &of_weight, &of_bias};
    for (int i = 0; i < 3; ++i) {
      wanted[i] = needed[i] && !made[i]->defined();
      if (needed[i] && !wanted[i]) results[i] = scaled(*made[i]);
    }
    if (!wanted[0] && !wanted[1] && !wanted[2]) return results;
    const auto rest = call_linear_loss(
        primitive::linear_cross_entropy_backward,
        LinearLayer{input, layer_weight, if_defined(bias), chunk, wanted},
        loss.target,
        loss.arguments(),
        grad,
        loss.count,
        loss.statistics);
    if (wanted[0]) results[0] = std::get<0>(rest);
    if (wanted[1]) results[1] = std::get<1>(rest);
    if (wanted[2]) results[2] = std::get<2>(rest);
    return results;
  }
};

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Results linear_cross_entropy(
    const LinearLayer& layer, const Tensor& target, const LossArguments& loss) {
  check_weight_gradient(loss);
  const bool is_dual = has_forward_gradient(
      layer.input, layer.weight, layer.bias, target, loss.weight, loss.temperature);
  const auto node = node_for<LinearCrossEntropyNode>(
      layer.input, layer.weight, layer.bias, target, loss.weight, loss.temperature);
  Results results;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    results = call_linear_loss(primitive::linear_cross_entropy, layer, target, loss);
  }
  auto& [result, count, statistics, of_input, of_weight, of_bias] = results;
  if (is_dual) {  // by the logits themselves
    const Tensor logits = at::linear(layer.input, layer.weight, layer.bias);
    result = std::get<0>(call_loss(primitive::cross_entropy, logits, target, loss, false));
    return results;
  }
  if (node) {
    torch_autograd::set_history(result, node);
    if (layer.wanted[0]) node->of_input = of_input;
    if (layer.wanted[1]) node->of_weight = of_weight;
    if (layer.wanted[2] && layer.has_bias()) node->of_bias = of_bias;
    node->bias = layer.bias;
    node->layer_weight = layer.weight;
    node->chunk = layer.chunk;
    node->loss.save(layer.input, target, count, statistics, loss);
    node_ready(node);
  }
  return results;
}

}  // namespace
}  // namespace softmax_ext::autograd

SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  m.impl(
      "_linear_cross_entropy",
      &softmax_ext::linear_cross_entropy_of<softmax_ext::autograd::linear_cross_entropy>);
  // Called where nothing is differentiated any more.
  m.impl("_linear_cross_entropy_backward", torch::CppFunction::makeFallthrough());
}
