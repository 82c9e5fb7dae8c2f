// Derivatives of masked_softmax: those of softmax in its output, where what the mask leaves out is 0
// and takes no gradient. The mask itself is wanted for the temperature's alone.

#include <ATen/ops/arange.h>

#include "csrc/autograd/formulas.h"
#include "csrc/autograd/node.h"
#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"
#include "csrc/registration.h"

namespace softmax_ext::autograd {
namespace {

// Where a causal mask keeps nothing: the keys after the query's own.
Tensor is_later(const Tensor& scores) {
  const auto options = scores.options().dtype(at::kLong).requires_grad(false);
  const c10::SymInt queries = scores.sym_size(-2), keys = scores.sym_size(-1);
  const Tensor last = at::arange(queries, options).add_(at::Scalar(keys - queries)).unsqueeze(-1);
  return at::arange(keys, options) > last;
}

// Logits for sums Σ g·x, whose weights g are 0 for what is left out.
Tensor kept_logits(
    const Tensor& logits, const optional<Tensor>& mask, int64_t dim, bool is_causal) {
  constexpr double kNone = -HUGE_VAL;
  Tensor kept = mask ? logits.masked_fill(mask->logical_not(), kNone) : logits;
  if (is_causal) kept = kept.masked_fill(is_later(kept), kNone);
  return centred_logits(kept, dim);
}

struct MaskedSoftmaxNode : OpNode<MaskedSoftmaxNode> {
  static constexpr const char* kName = "SoftmaxExtMaskedSoftmaxBackward0";
  SavedOutput output;
  SavedInput self;  // with the mask, only where the temperature takes a gradient
  SavedInput mask;
  SavedInput temperature;
  int64_t dim;
  double scale;
  int64_t self_dtype;
  bool is_causal;
  auto members() {
    return std::tie(output, self, mask, temperature, dim, scale, self_dtype, is_causal);
  }

  static variable_list vjp(
      const variable_list& grads,
      const std::vector<bool>& needed,
      const Tensor& output,
      const Tensor& self,
      const Tensor& mask,
      const Tensor& saved_temperature,
      int64_t dim,
      double scale,
      int64_t self_dtype,
      bool is_causal) {
    const auto temperature = if_defined(saved_temperature);
    const auto gradient = [&](int64_t dtype) {
      return primitive::softmax_backward(grads[0], output, temperature, dim, scale, dtype);
    };
    if (!needed[2]) return {gradient(self_dtype), Tensor(), Tensor()};
    const auto lane = saved_temperature.scalar_type();
    const Tensor grad_logits = gradient(code_of_dtype(lane));
    const Tensor logits = kept_logits(self.to(lane), if_defined(mask), dim, is_causal);
    return {
        grad_logits.to(self.scalar_type()),
        Tensor(),
        temperature_gradient(grad_logits, logits, saved_temperature)};
  }
};

Tensor masked_softmax(
    const Tensor& self,
    const optional<Tensor>& mask,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype,
    bool is_causal,
    bool empty_is_zero) {
  const auto node = node_for<MaskedSoftmaxNode>(self, mask, temperature);
  Tensor output;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    output = primitive::masked_softmax(
        self, mask, temperature, dim, scale, dtype, is_causal, empty_is_zero);
  }
  if (node) torch_autograd::set_history(output, node);
  if (has_forward_gradient(self, temperature)) {
    const auto lane = lane_dtype(self.scalar_type(), output.scalar_type());
    auto logits_tangent = tangent(self);
    if (const auto t = tangent(temperature)) {
      const Tensor logits = kept_logits(primal(self).to(lane), mask, dim, is_causal);
      logits_tangent =
          sum_of(logits_tangent, temperature_tangent(logits, *primal(temperature), *t));
    }
    const Tensor output_tangent = primitive::softmax_backward(
        logits_tangent->to(output.scalar_type()),
        output,
        primal(temperature),
        dim,
        scale,
        code_of_dtype(lane));
    output._set_fw_grad(output_tangent.to(output.scalar_type()), 0, /*is_inplace_op=*/false);
  }
  if (node) {
    node->output = output;
    if (torch_autograd::compute_requires_grad(temperature)) {
      node->self = self;
      node->mask = mask;
    }
    node->temperature = temperature;
    node->dim = dim;
    node->scale = scale;
    node->self_dtype = code_of_dtype(self.scalar_type());
    node->is_causal = is_causal;
    node_ready(node);
  }
  return output;
}

}  // namespace
}  // namespace softmax_ext::autograd

SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  m.impl("_masked_softmax", &softmax_ext::autograd::masked_softmax);
}
