#include "csrc/autograd/formulas.h"

#include <ATen/ops/isneginf.h>

#include <cmath>
#include <limits>

#include "csrc/element_type.h"
#include "csrc/primitives.h"

namespace softmax_ext::autograd {
namespace {

// 1/T, and 0 at both limits. T is replaced there before the division, or the division's own
// derivative would be NaN.
Tensor gradient_scale(const Tensor& temperature) {
  const Tensor is_limit = (temperature == 0).logical_or(temperature == HUGE_VAL);
  return temperature.masked_fill(is_limit, 1).reciprocal().masked_fill(is_limit, 0);
}

}  // namespace

Tensor primal(const Tensor& tensor) { return tensor._fw_primal(0); }

optional<Tensor> primal(const optional<Tensor>& tensor) {
  return tensor && tensor->defined() ? optional<Tensor>(primal(*tensor)) : std::nullopt;
}

optional<Tensor> tangent(const Tensor& tensor) { return if_defined(tensor._fw_grad(0)); }

optional<Tensor> tangent(const optional<Tensor>& tensor) {
  return tensor && tensor->defined() ? tangent(*tensor) : std::nullopt;
}

Tensor divided_by_temperature(
    const Tensor& value, const optional<Tensor>& temperature, double scale) {
  if (temperature && temperature->defined()) return value * gradient_scale(*temperature);
  if (scale == 1.0) return value;
  return value * (std::isinf(scale) ? 0.0 : scale);
}

Tensor row_sum(const Tensor& value, int64_t dim) { return value.sum(dim, /*keepdim=*/true); }

Tensor finite_logits(const Tensor& logits) { return logits.masked_fill(at::isneginf(logits), 0); }

Tensor centred_logits(const Tensor& logits, int64_t dim) {
  const Tensor centre = primitive::logsumexp(logits.detach(), std::nullopt, dim, 1.0, std::nullopt);
  const double lowest = logits.scalar_type() == at::kDouble ? std::numeric_limits<double>::lowest()
                                                            : std::numeric_limits<float>::lowest();
  return (logits - centre).clamp_min(lowest).masked_fill(at::isneginf(logits), 0);
}

Tensor temperature_gradient(
    const Tensor& grad_logits, const Tensor& logits, const Tensor& temperature) {
  return -(grad_logits * logits * gradient_scale(temperature))
              .sum_to_size_symint(temperature.sym_sizes());
}

Tensor temperature_tangent(
    const Tensor& logits, const Tensor& temperature, const Tensor& temperature_tangent) {
  return -logits * (temperature_tangent * gradient_scale(temperature));
}

Tensor sum_of(const optional<Tensor>& a, const optional<Tensor>& b) {
  return a && b ? *a + *b : a ? *a : *b;
}

}  // namespace softmax_ext::autograd
