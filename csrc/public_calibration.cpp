// fit_temperature: a search (csrc/numerics/temperature_fit.h) whose every step is one pass over the
// logits, by the primitive _temperature_statistics; and that primitive made of ATen operators, for
// devices that have no kernel of it.

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "csrc/element_type.h"
#include "csrc/loss_outputs.h"
#include "csrc/numerics/temperature_fit.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"
#include "csrc/public_operators.h"

namespace softmax_ext::public_operator {
namespace {

const char* const kFit = "fit_temperature";

LossStatistics statistics_at(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t dim,
    double scale) {
  const Tensor numbers =
      primitive::temperature_statistics(self, target, weight, dim, scale).to(at::kCPU);
  const double* const n = numbers.const_data_ptr<double>();
  return {n[0], n[1], n[2], n[3], n[4]};
}

// One per row: that of its target's class, 0 where it is ignored. None if all are 1.
optional<Tensor> weights_of_rows(
    const Tensor& indices, const Tensor& ignored, const optional<Tensor>& weight) {
  const bool has_ignored = ignored.any().item<bool>();
  if (!weight) {
    if (!has_ignored) return std::nullopt;
    return ignored.logical_not().to(at::kDouble);
  }
  const Tensor is_weight = weight->ge(0).logical_and(weight->isfinite());
  if (!is_weight.all().item<bool>()) {
    const int64_t wrong = is_weight.to(at::kInt).argmin().item<int64_t>();
    TORCH_CHECK_VALUE(
        false,
        kFit,
        ": expected finite weights of classes >= 0, got ",
        (*weight)[wrong].item<double>(),
        " for class ",
        wrong);
  }
  return weight->to(at::kDouble)
      .index_select(0, indices.flatten())
      .view_symint(indices.sym_sizes())
      .masked_fill(ignored, 0);
}

[[noreturn]] void raise_for_loss_that_is_not_finite(
    const Tensor& self, const Tensor& indices, const optional<Tensor>& weights) {
  const Tensor losses = cross_entropy(
      self,
      indices,
      /*weight=*/std::nullopt,
      Reduction::none,
      /*ignore_index=*/-1,
      /*label_smoothing=*/0,
      /*temperature=*/std::nullopt,
      /*softcap=*/std::nullopt,
      /*z_loss=*/0,
      /*empty=*/"nan",
      /*gradient=*/"recompute");
  Tensor is_bad = losses.isfinite().logical_not();
  if (weights) is_bad = is_bad.logical_and(*weights > 0);
  const Tensor positions = is_bad.flatten().nonzero().flatten();
  TORCH_CHECK_VALUE(
      positions.numel() > 0, kFit, ": expected losses with a finite sum; they overflow");
  const int64_t position = positions[0].item<int64_t>();
  TORCH_CHECK_VALUE(
      false,
      kFit,
      ": expected rows of finite loss, got ",
      std::isinf(losses.flatten()[position].item<double>()) ? "inf" : "nan",
      " at position ",
      position,
      " of the target of shape ",
      indices.sizes(),
      ": its logits hold NaN or +inf, or that of its target is -inf");
}

}  // namespace

std::tuple<double, double, bool, int64_t> fit_temperature(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    c10::SymInt ignore_index,
    double min_temperature,
    double max_temperature) {
  const at::NoGradGuard no_grad;
  TORCH_CHECK_VALUE(
      0 < min_temperature && min_temperature <= max_temperature && std::isfinite(max_temperature),
      kFit,
      ": expected 0 < min_temperature <= max_temperature < inf, got ",
      min_temperature,
      " and ",
      max_temperature);
  TORCH_CHECK(
      self.dim() > 0, kFit, ": expected logits of shape [C] or [N, C, ...], got a 0-d tensor");
  outputs::check_loss_input(kFit, self);
  const int64_t dim = self.dim() == 1 ? 0 : 1;
  outputs::check_class_target(kFit, self, target, dim);
  if (weight) outputs::check_class_weight(kFit, self, *weight, dim);
  const Tensor indices = primitive::class_indices(self, target, dim, ignore_index);
  const Tensor ignored = target.to(at::kLong).eq(at::Scalar(ignore_index));
  const auto weights = weights_of_rows(indices, ignored, weight);
  const bool has_rows = weights ? weights->gt(0).any().item<bool>() : indices.numel() > 0;
  TORCH_CHECK_VALUE(
      has_rows,
      kFit,
      ": expected a row that is not ignored and whose class has a weight, got none among the "
      "targets of shape ",
      target.sizes());
  const auto fit = TemperatureSearch(min_temperature, max_temperature).run([&](double scale) {
    return statistics_at(self, indices, weights, dim, scale);
  });
  if (!std::isfinite(fit.loss)) raise_for_loss_that_is_not_finite(self, indices, weights);
  if (!fit.is_converged)
    TORCH_WARN(kFit, ": no convergence in ", fit.passes, " passes over the logits");
  return {fit.temperature, fit.loss, fit.is_clamped, fit.passes};
}

Tensor temperature_statistics(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t dim,
    double scale) {
  outputs::temperature_statistics(self, target, weight, dim, scale);
  dim = wrapped_dim("temperature_statistics", dim, self.dim());
  const auto lane = lane_dtype(self.scalar_type());
  Tensor total = at::zeros({5}, self.options().dtype(at::kDouble));
  if (target.numel() == 0) return total;
  // Some rows at a time: there are five temporaries of their size.
  constexpr int64_t kElementsAtOnce = int64_t{1} << 26;
  const int64_t slices = dim == 0 ? 1 : self.size(0);
  const int64_t step = std::max<int64_t>(1, kElementsAtOnce / (self.numel() / slices));
  for (int64_t first = 0; first < slices; first += step) {
    const auto part = [&](const Tensor& tensor) {
      return dim == 0 ? tensor : tensor.narrow(0, first, std::min(step, slices - first));
    };
    const Tensor logits = part(self).to(lane);
    const Tensor max = logits.amax(dim, /*keepdim=*/true);
    const Tensor shift = max.isfinite().logical_not();
    const Tensor from_max = logits - max.masked_fill(shift, 0);
    const Tensor terms = (from_max * scale).exp();
    const Tensor distances = at::where(terms == 0, 0, -from_max);
    const Tensor products = terms * distances;
    const Tensor sum =
        terms.sum(dim, false, at::kDouble)
            .masked_fill(shift.squeeze(dim), std::numeric_limits<double>::quiet_NaN());
    const Tensor expected = products.sum(dim, false, at::kDouble) / sum;
    const Tensor square = (products * distances).sum(dim, false, at::kDouble) / sum;
    const Tensor of_target =
        (max.to(at::kDouble) - logits.gather(dim, part(target).unsqueeze(dim)).to(at::kDouble))
            .squeeze(dim);
    const Tensor loss = sum.log() + of_target * scale;
    Tensor rows = at::stack(
        {at::ones_like(loss),
         loss,
         of_target,
         expected,
         (square - expected.square()).clamp_min(0)});
    if (weight) {
      const Tensor weights = part(*weight);
      rows = rows.masked_fill(weights == 0, 0) * weights;
    }
    total = total + rows.reshape({5, -1}).sum(1);
  }
  return total;
}

}  // namespace softmax_ext::public_operator
