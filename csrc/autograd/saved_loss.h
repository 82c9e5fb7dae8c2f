#pragma once
// What the nodes of losses have in common.

#include <c10/core/GradMode.h>

#include <vector>

#include "csrc/autograd/formulas.h"
#include "csrc/autograd/loss_formulas.h"
#include "csrc/autograd/node.h"
#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"
#include "csrc/registration.h"

namespace softmax_ext::autograd {

// What a node saves of a loss, in the order of Loss.
struct SavedLoss {
  SavedInput self;
  SavedInput target;
  SavedInput count;  // outputs, but not differentiable ones: they hold no reference to the node
  SavedInput statistics;
  int64_t dim;
  int64_t reduction;
  c10::SymInt ignore_index;
  SavedInput weight;
  SavedInput temperature;
  double scale;
  double label_smoothing;
  double softcap;
  double z_loss;

  auto members() {
    return std::tie(
        self,
        target,
        count,
        statistics,
        dim,
        reduction,
        ignore_index,
        weight,
        temperature,
        scale,
        label_smoothing,
        softcap,
        z_loss);
  }
  void save(
      const Tensor& of_self,
      const Tensor& of_target,
      const Tensor& of_count,
      const Tensor& of_statistics,
      const LossArguments& loss) {
    self = of_self;
    target = of_target;
    count = of_count;
    statistics = of_statistics;
    dim = wrapped_dim("cross_entropy", loss.dim, of_self.dim());
    reduction = loss.reduction;
    ignore_index = loss.ignore_index;
    weight = loss.weight;
    temperature = loss.temperature;
    scale = loss.scale;
    label_smoothing = loss.label_smoothing;
    softcap = loss.softcap;
    z_loss = loss.z_loss;
  }
};

// From gradients of the logits' shape, and of each row, to those of the arguments.
inline Tensor to_target(const Loss& loss, const Tensor& gradient) {
  return gradient.to(loss.target.scalar_type());
}
inline Tensor to_weight(const Loss& loss, const Tensor& gradient) {
  std::vector<int64_t> rows;
  for (int64_t dim = 0; dim < gradient.dim(); ++dim)
    if (dim != loss.dim) rows.push_back(dim);
  return rows.empty() ? gradient : gradient.sum(rows);
}
inline Tensor to_temperature(const Loss& loss, const Tensor& gradient) {
  return gradient.sum_to_size_symint(loss.temperature.sym_sizes());
}

// The gradients of target, weight and temperature.
inline void differentiate_others(
    const Loss& loss,
    const Tensor& grad,
    const Tensor& grad_logsumexp,
    const std::vector<bool>& needed,
    variable_list& results) {
  if (!needed[1] && !needed[2] && !needed[3]) return;
  const RowGradients grads = row_gradients(loss, grad, grad_logsumexp);
  const LossFormulas formulas(loss);
  if (needed[1]) results[1] = to_target(loss, formulas.of_target(grads));
  if (needed[2]) results[2] = to_weight(loss, formulas.of_weights(grads));
  if (needed[3]) results[3] = to_temperature(loss, formulas.of_temperature(grads));
}

// The mean divides by a sum of weights, whose derivative no kernel makes.
inline void check_weight_gradient(const LossArguments& loss) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      loss.reduction != Reduction::mean || !loss.has_weight() ||
          !((c10::GradMode::is_enabled() && loss.weight->requires_grad()) ||
            has_forward_gradient(*loss.weight)),
      "_cross_entropy: expected reduction 'none' or 'sum' for weights that require grad");
}

}  // namespace softmax_ext::autograd
