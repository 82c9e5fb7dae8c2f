// Derivatives of the sum or mean of losses. It is linear in them: each row takes the result's
// gradient, divided by the number of rows for a mean. Ignored rows take it too; the derivative of
// their loss makes it 0.

#include "csrc/autograd/formulas.h"
#include "csrc/autograd/node.h"
#include "csrc/primitives.h"
#include "csrc/registration.h"

namespace softmax_ext::autograd {
namespace {

struct ReduceLossesNode : OpNode<ReduceLossesNode> {
  static constexpr const char* kName = "SoftmaxExtReduceLossesBackward0";
  SavedInput target;
  SavedInput count;
  bool mean;
  auto members() { return std::tie(target, count, mean); }

  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>&,
      const Tensor& target,
      const Tensor& count,
      bool mean) {
    Tensor grad = mean ? grads[0] / count.to(grads[0].scalar_type()) : grads[0];
    while (grad.dim() < target.dim()) grad = grad.unsqueeze(-1);
    return {grad.expand_symint(target.sym_sizes())};
  }
};

std::tuple<Tensor, Tensor> reduce_losses(
    const Tensor& losses,
    const Tensor& target,
    int64_t leading,
    bool mean,
    c10::SymInt ignore_index) {
  const auto node = node_for<ReduceLossesNode>(losses);
  std::tuple<Tensor, Tensor> results;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    results = primitive::reduce_losses(losses, target, leading, mean, ignore_index);
  }
  const auto& [result, count] = results;
  if (node) torch_autograd::set_history(result, node);
  if (const auto losses_tangent = tangent(losses)) {
    const Tensor result_tangent =
        std::get<0>(primitive::reduce_losses(*losses_tangent, target, leading, mean, ignore_index));
    result._set_fw_grad(result_tangent, 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->target = target;
    node->count = count;
    node->mean = mean;
    node_ready(node);
  }
  return results;
}

}  // namespace
}  // namespace softmax_ext::autograd

SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  m.impl("_reduce_losses", &softmax_ext::autograd::reduce_losses);
}
