// cross_entropy with all of its options. With logits x (softcap and temperature applied), classes c,
// weights w, smoothing e and logp = log_softmax(x), the loss of a row is
//
//   classes t        (1 − e) · w_t · (−logp_t)  +  e/C · Σ_c w_c · (−logp_c)  +  z · lse²
//   probabilities t  Σ_c t'_c · w_c · (−logp_c)  +  z · lse²,   t' = t (1 − e) + e/C
//
// and the mean is over Σ w_t of the rows that are not ignored, or over all rows. The primitive
// _cross_entropy does the case that is most common, in one pass; class weights and an empty batch
// are added to its rows. The rest is composed of log_softmax, logsumexp and ATen operators.

#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/isneginf.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"
#include "csrc/public_operators.h"

namespace softmax_ext::public_operator {
namespace {

// The arguments, checked, and in the dtypes and shapes that the formulas take.
struct Loss {
  Tensor self;
  int64_t dim;
  Tensor target;
  bool has_classes;  // else probabilities
  optional<Tensor> weight;
  optional<Tensor> temperature;
  double scale;
  at::ScalarType lane;

  const LossOptions& options;

  // Whether −logp of the target is what _cross_entropy makes.
  bool is_plain() const {
    return has_classes && !temperature && scale == 1 && !options.softcap &&
           options.label_smoothing == 0;
  }
};

Loss resolved(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& temperature,
    double scale,
    const LossOptions& options) {
  const char* const op = "cross_entropy";
  TORCH_CHECK_VALUE(
      Reduction::none <= options.reduction && options.reduction <= Reduction::sum,
      "cross_entropy: expected reduction 0 (none), 1 (mean) or 2 (sum), got ",
      options.reduction);
  TORCH_CHECK(
      0 <= options.label_smoothing && options.label_smoothing <= 1,
      "cross_entropy: expected label_smoothing in [0, 1], got ",
      options.label_smoothing);
  TORCH_CHECK_VALUE(
      !options.softcap || (*options.softcap > 0 && std::isfinite(*options.softcap)),
      "cross_entropy: expected a finite softcap > 0, got ",
      options.softcap.value_or(0));
  TORCH_CHECK_VALUE(
      options.z_loss >= 0, "cross_entropy: expected z_loss >= 0, got ", options.z_loss);
  TORCH_CHECK_VALUE(
      options.empty == "nan" || options.empty == "zero",
      "cross_entropy: expected empty 'nan' or 'zero', got '",
      options.empty,
      "'");
  TORCH_CHECK_VALUE(
      options.gradient == "recompute" || options.gradient == "forward" ||
          options.gradient == "inplace",
      "cross_entropy: expected gradient 'recompute', 'forward' or 'inplace', got '",
      options.gradient,
      "'");
  TORCH_CHECK(
      self.dim() > 0,
      "cross_entropy: expected an input of shape [C] or [N, C, ...], got a 0-d tensor");
  outputs::check_input(op, self);
  const bool is_one_sample = self.dim() == 1;
  Loss loss{
      .self = self,
      .dim = is_one_sample ? 0 : 1,
      .target = target,
      .has_classes = !target.is_floating_point(),
      .weight = std::nullopt,
      .temperature = std::nullopt,
      .scale = scale,
      .lane = lane_dtype(self.scalar_type()),
      .options = options};
  // As torch, one sample may come with its class in a tensor of one element.
  if (loss.has_classes && is_one_sample && target.dim() == 1) loss.target = target.squeeze(0);
  if (!is_one_sample && loss.target.dim() > 0)
    TORCH_CHECK_VALUE(
        loss.target.sym_size(0).sym_eq(self.sym_size(0)).guard_or_true(__FILE__, __LINE__),
        "cross_entropy: expected a target for each of the ",
        self.sym_size(0),
        " samples, got ",
        loss.target.sym_size(0));
  if (loss.has_classes) outputs::check_class_target(op, self, loss.target, loss.dim);
  if (!loss.has_classes) {
    outputs::check_probability_target(op, self, target);
    loss.target = target.to(loss.lane);
  }
  if (options.weight && options.weight->defined()) {
    outputs::check_class_weight(op, self, *options.weight, loss.dim);
    loss.weight = options.weight->to(loss.lane);
  }
  if (temperature) {
    TORCH_CHECK(
        !temperature->is_complex(),
        "cross_entropy: expected a real temperature, got dtype ",
        temperature->scalar_type());
    loss.temperature = temperature->to(loss.lane);
  }
  return loss;
}

// Whether the logits can be overwritten by their gradient.
bool is_in_place(const Tensor& self) {
  constexpr c10::DispatchKeySet kTransformed{
      c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::FuncTorchBatched};
  TORCH_CHECK(
      !self.key_set().has_any(kTransformed),
      "cross_entropy: gradient='inplace' overwrites the logits, which torch.func needs; use "
      "'forward' or 'recompute'");
  // What traces a call keeps no memory to overwrite.
  if (at::isTensorSubclassLike(self)) return false;
  TORCH_CHECK(
      !self.is_leaf(),
      "cross_entropy: gradient='inplace' overwrites the logits, but they are a leaf that requires "
      "grad; expected the result of another operator");
  return true;
}

// The loss, and how many rows are in each sum.
std::pair<Tensor, Tensor> fused(const Loss& loss, int64_t reduction, std::string_view gradient) {
  const auto& ignore_index = loss.options.ignore_index;
  const auto call = [&](const auto& primitive) -> std::pair<Tensor, Tensor> {
    const auto results =
        primitive(loss.self, loss.target, loss.dim, reduction, /*leading=*/0, ignore_index);
    return {std::get<0>(results), std::get<1>(results)};
  };
  if (gradient == "recompute" || !(loss.self.requires_grad() && c10::GradMode::is_enabled()))
    return call(primitive::cross_entropy);
  if (gradient == "inplace" && is_in_place(loss.self))
    return call(primitive::cross_entropy_in_place);
  return call(primitive::cross_entropy_with_gradient);
}

// The rows that are not ignored, where some may be.
optional<Tensor> ignored_rows(const Loss& loss) {
  if (!loss.has_classes) return std::nullopt;
  return loss.target.to(at::kLong).eq(at::Scalar(loss.options.ignore_index));
}

// Logits whose ignored rows hold 0, whatever they held, with softcap applied.
Tensor logits_of(const Loss& loss, const optional<Tensor>& ignored) {
  Tensor logits = loss.self;
  if (ignored) logits = logits.masked_fill(ignored->unsqueeze(loss.dim), 0);
  if (!loss.options.softcap) return logits;
  const double softcap = *loss.options.softcap;
  return (logits.to(loss.lane) / softcap).tanh() * softcap;
}

Tensor logsumexp_of(const Loss& loss, const Tensor& logits) {
  return primitive::logsumexp(
             logits, loss.temperature, loss.dim, loss.scale, code_of_dtype(loss.lane))
      .squeeze(loss.dim);
}

// The weights of classes, to broadcast against the logits.
Tensor weights_along(const Loss& loss) {
  Tensor weight = *loss.weight;
  for (int64_t dim = loss.dim + 1; dim < loss.self.dim(); ++dim) weight = weight.unsqueeze(-1);
  return weight;
}

// Σ_c q_c · (−logp_c), where 0 · (−inf) is 0.
Tensor expected_surprise(const Tensor& weights, const Tensor& logp, int64_t dim) {
  const Tensor counts_not = at::isneginf(logp).logical_and(weights == 0);
  return -(weights * logp.masked_fill(counts_not, 0)).sum(dim);
}

// surprise · factor, where inf · 0 is 0.
Tensor weighted(const Tensor& surprise, const Tensor& factor) {
  return surprise.masked_fill(factor == 0, 0) * factor;
}

// Without the z-loss; ignored rows hold anything.
Tensor losses_of_rows(
    const Loss& loss,
    const Tensor& logits,
    const Tensor& indices,
    const optional<Tensor>& weights_of_rows) {
  const double e = loss.options.label_smoothing;
  const c10::SymInt classes = loss.self.sym_size(loss.dim);
  if (loss.is_plain()) {
    const Tensor rows = fused(loss, Reduction::none, "recompute").first;
    return weights_of_rows ? weighted(rows, *weights_of_rows) : rows;
  }
  const Tensor logp = primitive::log_softmax(
      logits, loss.temperature, loss.dim, loss.scale, code_of_dtype(loss.lane));
  if (!loss.has_classes) {
    Tensor weights = loss.target;
    if (e > 0)
      weights = (weights * (1 - e)).add(at::Scalar(c10::SymFloat(e) / c10::SymFloat(classes)));
    if (loss.weight) weights = weights * weights_along(loss);
    return expected_surprise(weights, logp, loss.dim);
  }
  Tensor rows = -logp.gather(loss.dim, indices.unsqueeze(loss.dim)).squeeze(loss.dim);
  if (weights_of_rows) rows = weighted(rows, *weights_of_rows);
  if (e == 0) return rows;
  const Tensor of_all =
      loss.weight ? expected_surprise(weights_along(loss), logp, loss.dim) : -logp.sum(loss.dim);
  const Tensor smoothed = of_all / at::Scalar(classes) * e;
  return e == 1 ? smoothed : rows * (1 - e) + smoothed;
}

// What the losses are added up and divided by.
Tensor reduced(
    const Loss& loss,
    const Tensor& rows,
    const optional<Tensor>& ignored,
    const optional<Tensor>& weights_of_rows) {
  if (loss.options.reduction == Reduction::none) return rows;
  const Tensor sum = rows.sum(at::kDouble);
  if (loss.options.reduction == Reduction::sum) return sum.to(loss.lane);
  const bool is_zero = loss.options.empty == "zero";
  if (!ignored) {
    const Tensor mean = sum / at::Scalar(rows.sym_numel());
    return (is_zero && rows.sym_numel() == 0 ? sum : mean).to(loss.lane);
  }
  const Tensor valid = ignored->logical_not();
  const Tensor count = valid.sum(at::kDouble);
  Tensor denominator = count;
  if (weights_of_rows) denominator = weights_of_rows->masked_fill(*ignored, 0).sum(at::kDouble);
  if (is_zero) denominator = denominator.masked_fill(count == 0, 1);
  return (sum / denominator).to(loss.lane);
}

// The loss, and the log-sum-exp of each row if it is wanted.
std::pair<Tensor, Tensor> cross_entropy_of(Loss loss, bool wants_logsumexp) {
  const bool makes_logsumexp = loss.options.z_loss > 0 || wants_logsumexp;
  TORCH_CHECK_VALUE(
      !makes_logsumexp || std::isfinite(loss.scale),
      "cross_entropy: expected a temperature > 0 with z_loss or a log-sum-exp, got 0");
  // Two gradients of the logits come together then, in the dtype of these.
  if (makes_logsumexp) loss.self = loss.self.to(loss.lane);
  const auto ignored = ignored_rows(loss);
  const bool is_fused = loss.is_plain() && !loss.weight && loss.options.z_loss == 0;
  if (is_fused && !wants_logsumexp) {
    const auto [result, count] = fused(loss, loss.options.reduction, loss.options.gradient);
    if (loss.options.empty == "zero" && loss.options.reduction == Reduction::mean)
      return {result.masked_fill(count == 0, 0), Tensor()};
    return {result, Tensor()};
  }
  Tensor indices;
  if (loss.has_classes && (loss.weight || !loss.is_plain()))
    indices = primitive::class_indices(loss.self, loss.target, loss.dim, loss.options.ignore_index);
  optional<Tensor> weights_of_rows;
  if (loss.weight && loss.has_classes) {
    weights_of_rows =
        loss.weight->index_select(0, indices.flatten()).view_symint(indices.sym_sizes());
  }
  const bool needs_logits = !loss.is_plain() || makes_logsumexp;
  const Tensor logits = needs_logits ? logits_of(loss, ignored) : Tensor();
  Tensor rows = losses_of_rows(loss, logits, indices, weights_of_rows);
  Tensor lse;
  if (makes_logsumexp) {
    lse = logsumexp_of(loss, logits);
    if (ignored) lse = lse.masked_fill(*ignored, 0);
  }
  if (loss.options.z_loss > 0) rows = rows + lse.square() * loss.options.z_loss;
  if (ignored) rows = rows.masked_fill(*ignored, 0);
  return {reduced(loss, rows, ignored, weights_of_rows), lse};
}

// A class index for each row of a matrix and no option: what the formulas above come to, sooner.
bool is_usual(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& temperature,
    const LossOptions& options) {
  return self.dim() == 2 && target.dim() == 1 && target.scalar_type() == at::kLong &&
         !temperature && !options.weight && options.label_smoothing == 0 && !options.softcap &&
         options.z_loss == 0 && options.empty == "nan" && options.gradient == "recompute" &&
         self.sym_size(0).sym_eq(target.sym_size(0)).guard_or_false(__FILE__, __LINE__);
}

double scale_of(double temperature) {
  TORCH_CHECK_VALUE(
      temperature >= 0, "cross_entropy: expected a temperature >= 0, got ", temperature);
  return 1 / std::abs(temperature);
}

}  // namespace

Tensor cross_entropy(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t reduction,
    c10::SymInt ignore_index,
    double label_smoothing,
    const optional<Tensor>& temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty,
    std::string_view gradient) {
  const LossOptions options{
      weight,
      reduction,
      std::move(ignore_index),
      label_smoothing,
      softcap,
      z_loss,
      empty,
      gradient};
  if (is_usual(self, target, temperature, options))
    return std::get<0>(primitive::cross_entropy(
        self, target, /*dim=*/1, reduction, /*leading=*/0, options.ignore_index));
  return cross_entropy_of(resolved(self, target, temperature, 1, options), false).first;
}

Tensor cross_entropy_float(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t reduction,
    c10::SymInt ignore_index,
    double label_smoothing,
    double temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty,
    std::string_view gradient) {
  const LossOptions options{
      weight,
      reduction,
      std::move(ignore_index),
      label_smoothing,
      softcap,
      z_loss,
      empty,
      gradient};
  const double scale = scale_of(temperature);
  return cross_entropy_of(resolved(self, target, std::nullopt, scale, options), false).first;
}

std::tuple<Tensor, Tensor> cross_entropy_with_logsumexp(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t reduction,
    c10::SymInt ignore_index,
    double label_smoothing,
    const optional<Tensor>& temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty) {
  const LossOptions options{
      weight, reduction, std::move(ignore_index), label_smoothing, softcap, z_loss, empty};
  return cross_entropy_of(resolved(self, target, temperature, 1, options), true);
}

std::tuple<Tensor, Tensor> cross_entropy_with_logsumexp_float(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t reduction,
    c10::SymInt ignore_index,
    double label_smoothing,
    double temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty) {
  const LossOptions options{
      weight, reduction, std::move(ignore_index), label_smoothing, softcap, z_loss, empty};
  const double scale = scale_of(temperature);
  return cross_entropy_of(resolved(self, target, std::nullopt, scale, options), true);
}

}  // namespace softmax_ext::public_operator
