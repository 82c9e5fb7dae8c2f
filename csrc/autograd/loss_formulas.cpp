#include "csrc/autograd/loss_formulas.h"

#include <ATen/ops/isneginf.h>
#include <ATen/ops/zeros_like.h>

#include <vector>

#include "csrc/autograd/formulas.h"
#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"

namespace softmax_ext::autograd {

LossArguments Loss::arguments() const {
  return {
      dim,
      reduction,
      count.dim(),
      ignore_index,
      if_defined(weight),
      if_defined(temperature),
      scale,
      label_smoothing,
      softcap,
      z_loss};
}

RowGradients row_gradients(const Loss& loss, const Tensor& grad, const Tensor& grad_logsumexp) {
  RowGradients grads;
  if (grad_logsumexp.defined()) grads.logsumexp = grad_logsumexp.unsqueeze(loss.dim);
  if (loss.reduction == Reduction::none) {
    grads.loss = grad.unsqueeze(loss.dim);
    return grads;
  }
  Tensor rows = grad;
  // 0 stays it, whatever it is divided by.
  if (loss.reduction == Reduction::mean)
    rows = (grad / loss.count.to(grad.scalar_type())).masked_fill(grad == 0, 0);
  while (rows.dim() < loss.self.dim()) rows = rows.unsqueeze(-1);
  grads.loss = rows;
  return grads;
}

Tensor reduced_rows(const Loss& loss, const Tensor& rows) {
  const Tensor of_rows = rows.squeeze(loss.dim);
  if (loss.reduction == Reduction::none) return of_rows;
  std::vector<int64_t> summed;
  for (int64_t dim = loss.count.dim(); dim < of_rows.dim(); ++dim) summed.push_back(dim);
  const Tensor sums = summed.empty() ? of_rows : of_rows.sum(summed);
  return loss.reduction == Reduction::mean ? sums / loss.count.to(sums.scalar_type()) : sums;
}

LossFormulas::LossFormulas(const Loss& loss)
    : loss_(loss), lane_(lane_dtype(loss.self.scalar_type())) {
  const int64_t dim = loss.dim;
  const auto temperature = if_defined(loss.temperature);
  const auto code = code_of_dtype(lane_);
  const bool are_classes = has_classes(loss.target);
  const Tensor classes = are_classes ? loss.target.to(at::kLong).unsqueeze(dim) : Tensor();
  // As int64: a scalar that the target's dtype does not hold would wrap.
  if (are_classes) is_ignored_ = classes.eq(at::Scalar(loss.ignore_index));
  capped_ = unless_ignored(loss.self).to(lane_);
  if (loss.softcap != 0) capped_ = (capped_ / loss.softcap).tanh() * loss.softcap;
  probs_ = primitive::softmax(capped_, temperature, dim, loss.scale, code);
  const double e = loss.label_smoothing;
  if (are_classes) {
    const Tensor indices = classes.masked_fill(is_ignored_, 0);
    unweighted_ = at::zeros_like(capped_).scatter(dim, indices, 1 - e);
  } else {
    unweighted_ = loss.target * (1 - e);
  }
  if (e != 0)
    unweighted_ =
        unweighted_.add(at::Scalar(c10::SymFloat(e) / c10::SymFloat(loss.self.sym_size(dim))));
  if (loss.weight.defined()) {
    weights_ = loss.weight;
    while (weights_.dim() < loss.self.dim() - dim) weights_ = weights_.unsqueeze(-1);
  }
  q_ = with_weights(unweighted_);
}

Tensor LossFormulas::logp() const {
  const Tensor logp = primitive::log_softmax(
      capped_, if_defined(loss_.temperature), loss_.dim, loss_.scale, code_of_dtype(lane_));
  return logp.masked_fill(at::isneginf(logp).logical_and(q_ == 0), 0);
}
Tensor LossFormulas::logsumexp() const {
  return primitive::logsumexp(
      capped_, if_defined(loss_.temperature), loss_.dim, loss_.scale, code_of_dtype(lane_));
}

Tensor LossFormulas::unless_ignored(const Tensor& value) const {
  return is_ignored_.defined() ? value.masked_fill(is_ignored_, 0) : value;
}
Tensor LossFormulas::by_temperature(const Tensor& value) const {
  return divided_by_temperature(value, if_defined(loss_.temperature), loss_.scale);
}
Tensor LossFormulas::through_softcap(const Tensor& value) const {
  return loss_.softcap == 0 ? value : value * (1 - (capped_ / loss_.softcap).square());
}
Tensor LossFormulas::with_weights(const Tensor& value) const {
  return weights_.defined() ? value * weights_ : value;
}

Tensor LossFormulas::of_logsumexp(const RowGradients& grads) const {
  optional<Tensor> of_loss;
  if (loss_.z_loss != 0) of_loss = grads.loss * logsumexp() * (2 * loss_.z_loss);
  if (!of_loss && !grads.logsumexp.defined()) return at::zeros_like(grads.loss);
  return sum_of(of_loss, if_defined(grads.logsumexp));
}

Tensor LossFormulas::of_scaled_logits(const RowGradients& grads) const {
  const Tensor total = grads.loss * row_sum(q_, loss_.dim) + of_logsumexp(grads);
  return unless_ignored(total * probs_ - grads.loss * q_);
}

Tensor LossFormulas::of_logits(const RowGradients& grads) const {
  return unless_ignored(through_softcap(by_temperature(of_scaled_logits(grads))));
}
Tensor LossFormulas::of_target(const RowGradients& grads) const {
  return with_weights(grads.loss * logp() * (loss_.label_smoothing - 1));
}
Tensor LossFormulas::of_weights(const RowGradients& grads) const {
  return unless_ignored(-grads.loss * unweighted_ * logp());
}
Tensor LossFormulas::of_temperature(const RowGradients& grads) const {
  // −Σ g·x / T. What the logits of a row have in common meets Σ g, which is that of the log-sum-exp.
  const Tensor of_capped = by_temperature(of_scaled_logits(grads));
  Tensor sums = row_sum(of_capped * centred_logits(capped_, loss_.dim), loss_.dim);
  if (loss_.z_loss != 0 || grads.logsumexp.defined()) {
    const Tensor centre =
        primitive::logsumexp(capped_.detach(), std::nullopt, loss_.dim, 1.0, code_of_dtype(lane_));
    sums = sums + by_temperature(of_logsumexp(grads)) * centre;
  }
  return unless_ignored(-by_temperature(sums));
}

LossFormulas::Second LossFormulas::of_direction(const RowGradients& grads, const Tensor& v) const {
  const int64_t dim = loss_.dim;
  const Tensor direction = unless_ignored(through_softcap(by_temperature(v)));
  const Tensor mean = row_sum(probs_ * direction, dim);
  Second second;
  // By the upstream gradients.
  Tensor of_loss = mean * row_sum(q_, dim) - row_sum(q_ * direction, dim);
  if (loss_.z_loss != 0) of_loss = of_loss + mean * logsumexp() * (2 * loss_.z_loss);
  second.upstream = {unless_ignored(of_loss), unless_ignored(mean)};
  // By the logits after softcap and temperature: of a · p − g · q, and of a's log-sum-exp.
  const Tensor total = grads.loss * row_sum(q_, dim) + of_logsumexp(grads);
  Tensor of_scaled = total * probs_ * (direction - mean);
  if (loss_.z_loss != 0) of_scaled = of_scaled + grads.loss * mean * probs_ * (2 * loss_.z_loss);
  Tensor of_capped = by_temperature(of_scaled);
  const Tensor first = of_scaled_logits(grads);
  if (loss_.softcap != 0) {
    // And by the slope of the softcap, 1 − (x/s)².
    const double s = loss_.softcap;
    of_capped = of_capped - by_temperature(v * first) * capped_ * (2 / (s * s));
  }
  second.logits = unless_ignored(through_softcap(of_capped));
  const Tensor of_q = grads.loss * (mean - direction);
  second.target = with_weights(of_q) * (1 - loss_.label_smoothing);
  second.weights = unless_ignored(of_q * unweighted_);
  if (loss_.temperature.defined()) {
    const Tensor of_factor = row_sum(first * direction, dim);  // 1/T itself
    second.temperature = unless_ignored(-by_temperature(
        row_sum(by_temperature(of_scaled) * finite_logits(capped_), dim) + of_factor));
  }
  return second;
}

}  // namespace softmax_ext::autograd
