#include "csrc/loss_outputs.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <limits>

#include "csrc/element_type.h"
#include "csrc/output_checks.h"
#include "csrc/outputs.h"

namespace softmax_ext::outputs {
namespace {

void check_reduction(const char* op, int64_t reduction) {
  TORCH_CHECK_VALUE(
      Reduction::none <= reduction && reduction <= Reduction::sum,
      op,
      ": expected reduction 0 (none), 1 (mean) or 2 (sum), got ",
      reduction);
}

void check_dtype(const char* op, const char* name, const Tensor& tensor, at::ScalarType dtype) {
  TORCH_CHECK(
      tensor.scalar_type() == dtype,
      op,
      ": expected ",
      name,
      " of dtype ",
      dtype,
      ", got ",
      tensor.scalar_type());
}

// Some numbers of each row; by default two.
c10::SymDimVector statistics_sizes(const Tensor& self, int64_t dim, int64_t numbers = 2) {
  auto sizes = row_sizes(self, dim, /*keepdim=*/false);
  sizes.insert(sizes.begin(), numbers);
  return sizes;
}

void check_arguments(
    const char* op, const Tensor& self, const Tensor& target, const LossArguments& loss) {
  const int64_t dim = wrapped_dim(op, loss.dim, self.dim());
  TORCH_CHECK(
      self.dim() > 0, "cross_entropy: expected an input of at least 1 dim, got a 0-d tensor");
  check_loss_input(op, self);
  const auto lane = lane_dtype(self.scalar_type());
  if (has_classes(target)) {
    check_class_target(op, self, target, dim);
  } else {
    check_probability_target(op, self, target);
    check_dtype(op, "target of probabilities", target, lane);
  }
  check_reduction(op, loss.reduction);
  if (loss.has_weight()) {
    check_class_weight(op, self, *loss.weight, dim);
    check_dtype(op, "weight", *loss.weight, lane);
  }
  check_temperature(op, loss.temperature, self, dim, lane);
}

}  // namespace

void check_loss_input(const char* op, const Tensor& self) {
  check_element_type(op, "input", self, /*has_dtype=*/false);
}

void check_class_target(const char* op, const Tensor& self, const Tensor& target, int64_t dim) {
  check_same_device(op, "target", target, self);
  const auto dtype = target.scalar_type();
  TORCH_CHECK(
      dtype == at::kLong || dtype == at::kInt || dtype == at::kByte,
      op,
      ": expected class indices of dtype int64, int32 or uint8 as target, got ",
      dtype);
  check_row_values(op, "target", target, self, dim, /*keepdim=*/false);
}

void check_probability_target(const char* op, const Tensor& self, const Tensor& target) {
  check_same_device(op, "target", target, self);
  TORCH_CHECK(
      target.dim() == self.dim(),
      op,
      ": expected class indices of dtype int64, int32 or uint8 as target, or probabilities of "
      "shape ",
      self.sym_sizes(),
      ", got ",
      target.scalar_type(),
      " of shape ",
      target.sym_sizes());
  check_sizes(op, "target of probabilities", target, self.sym_sizes());
}

void check_class_weight(const char* op, const Tensor& self, const Tensor& weight, int64_t dim) {
  check_same_device(op, "weight", weight, self);
  check_element_type(op, "weight", weight, /*has_dtype=*/false);
  check_sizes(op, "weight", weight, self.sym_sizes().slice(dim, 1), ", one per class");
}

void check_writable(const char* op, const Tensor& tensor) {
  TORCH_CHECK(
      tensor.is_meta() || tensor.is_non_overlapping_and_dense() ||
          at::has_internal_overlap(tensor) != at::MemOverlap::Yes,
      op,
      ": expected a tensor to write to without elements that share memory, got strides ",
      tensor.sym_strides(),
      "; clone it");
  if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self, const Tensor& target, const LossArguments& loss, bool has_logsumexp) {
  const char* const op = "cross_entropy";
  check_arguments(op, self, target, loss);
  const int64_t dim = wrapped_dim(op, loss.dim, self.dim());
  const auto rows = row_sizes(self, dim, /*keepdim=*/false);
  const auto leading = static_cast<size_t>(loss.leading);
  TORCH_CHECK(
      0 <= loss.leading && leading <= rows.size(),
      op,
      ": expected 0 to ",
      rows.size(),
      " leading dims, got ",
      loss.leading);
  const auto sums = c10::SymIntArrayRef(rows).slice(0, leading);
  const auto lane = lane_dtype(self.scalar_type());
  return {
      empty_of(self, loss.reduction == Reduction::none ? c10::SymIntArrayRef(rows) : sums, lane),
      empty_of(self, sums, at::kDouble),
      empty_of(self, statistics_sizes(self, dim), lane),
      empty_of(self, has_logsumexp ? rows : c10::SymDimVector{0}, lane)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_with_gradient(
    const Tensor& self, const Tensor& target, const LossArguments& loss) {
  auto [result, count, statistics, _] = cross_entropy(self, target, loss, false);
  return {result, count, statistics, empty_like_sizes(self, self.scalar_type())};
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_in_place(
    const Tensor& self, const Tensor& target, const LossArguments& loss) {
  auto [result, count, statistics, _] = cross_entropy(self, target, loss, false);
  check_writable("cross_entropy", self);
  return {result, count, statistics};
}

namespace {

void check_backward(
    const Tensor& grad,
    const optional<Tensor>& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    const LossArguments& loss) {
  const char* const op = "cross_entropy_backward";
  check_arguments(op, self, target, loss);
  const int64_t dim = wrapped_dim(op, loss.dim, self.dim());
  const auto lane = lane_dtype(self.scalar_type());
  for (const auto& [name, tensor, dtype] :
       {std::tuple("grad", &grad, lane),
        std::tuple("count", &count, at::kDouble),
        std::tuple("statistics", &statistics, lane)}) {
    check_same_device(op, name, *tensor, self);
    check_dtype(op, name, *tensor, dtype);
  }
  check_sizes(op, "statistics", statistics, statistics_sizes(self, dim));
  const auto rows = row_sizes(self, dim, /*keepdim=*/false);
  const auto sums = c10::SymIntArrayRef(rows).slice(0, std::min<size_t>(count.dim(), rows.size()));
  check_sizes(op, "count", count, sums);
  check_sizes(
      op, "grad", grad, loss.reduction == Reduction::none ? c10::SymIntArrayRef(rows) : sums);
  if (grad_logsumexp && grad_logsumexp->defined()) {
    check_same_device(op, "grad_logsumexp", *grad_logsumexp, self);
    check_dtype(op, "grad_logsumexp", *grad_logsumexp, lane);
    check_sizes(op, "grad_logsumexp", *grad_logsumexp, rows);
  }
}

}  // namespace

Tensor cross_entropy_backward(
    const Tensor& grad,
    const optional<Tensor>& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    const LossArguments& loss) {
  check_backward(grad, grad_logsumexp, self, target, count, statistics, loss);
  return empty_like_sizes(self, self.scalar_type());
}

namespace {

void check_shard(
    const char* op, const Tensor& self, const Tensor& target, const LossArguments& loss) {
  check_arguments(op, self, target, loss);
  const auto& [first, classes] = *loss.shard;
  const auto length = self.sym_size(wrapped_dim(op, loss.dim, self.dim()));
  TORCH_CHECK_VALUE(
      first.sym_ge(0).guard_or_true(__FILE__, __LINE__) &&
          (first + length).sym_le(classes).guard_or_true(__FILE__, __LINE__),
      op,
      ": expected logits of classes in [0, ",
      classes,
      "), got those from ",
      first,
      " to ",
      first + length);
}

}  // namespace

Tensor cross_entropy_shard(const Tensor& self, const Tensor& target, const LossArguments& loss) {
  const char* const op = "cross_entropy_shard";
  check_shard(op, self, target, loss);
  const int64_t dim = wrapped_dim(op, loss.dim, self.dim());
  const Tensor parts =
      empty_of(self, statistics_sizes(self, dim, 4), lane_dtype(self.scalar_type()));
  if (self.sym_size(dim).sym_eq(0).guard_or_false(__FILE__, __LINE__)) {
    parts.zero_();
    parts.narrow(0, 0, 2).fill_(-std::numeric_limits<double>::infinity());
  }
  return parts;
}

Tensor cross_entropy_shard_backward(
    const Tensor& grad,
    const Tensor& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& statistics,
    const LossArguments& loss) {
  const char* const op = "cross_entropy_shard_backward";
  check_shard(op, self, target, loss);
  const int64_t dim = wrapped_dim(op, loss.dim, self.dim());
  const auto lane = lane_dtype(self.scalar_type());
  const auto rows = row_sizes(self, dim, /*keepdim=*/false);
  for (const auto& [name, tensor, sizes] :
       {std::tuple("grad", &grad, rows),
        std::tuple("grad_logsumexp", &grad_logsumexp, rows),
        std::tuple("statistics", &statistics, statistics_sizes(self, dim))}) {
    check_same_device(op, name, *tensor, self);
    check_dtype(op, name, *tensor, lane);
    check_sizes(op, name, *tensor, sizes);
  }
  return empty_like_sizes(self, self.scalar_type());
}

Tensor logits_of(const LinearLayer& layer) {
  const auto& [input, weight, bias, chunk, wanted] = layer;
  const char* const op = "linear_cross_entropy";
  check_element_type(op, "input", input, /*has_dtype=*/false);
  TORCH_CHECK(
      input.dim() == 2 && weight.dim() == 2,
      op,
      ": expected an input [rows, features] and a linear_weight [classes, features], got ",
      input.sym_sizes(),
      " and ",
      weight.sym_sizes());
  check_same_device(op, "linear_weight", weight, input);
  check_sizes(op, "linear_weight", weight, {weight.sym_size(0), input.sym_size(1)});
  if (layer.has_bias()) {
    check_same_device(op, "linear_bias", *bias, input);
    check_sizes(op, "linear_bias", *bias, weight.sym_sizes().slice(0, 1), ", one per class");
  }
  TORCH_CHECK_VALUE(
      chunk.sym_ge(1).expect_true(__FILE__, __LINE__), op, ": expected a chunk > 0, got ", chunk);
  return at::empty_symint({1, 1}, input.options())
      .expand_symint({input.sym_size(0), weight.sym_size(0)});
}

namespace {

// Autocast casts them before.
void check_layer_dtypes(const LinearLayer& layer) {
  const char* const op = "linear_cross_entropy";
  check_dtype(op, "linear_weight", layer.weight, layer.input.scalar_type());
  if (layer.has_bias()) check_dtype(op, "linear_bias", *layer.bias, layer.input.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> linear_gradients(const LinearLayer& layer) {
  const auto gradient = [&](bool is_wanted, const Tensor& like) {
    return is_wanted ? empty_like_sizes(like, like.scalar_type())
                     : empty_of(layer.input, c10::SymDimVector{0}, layer.input.scalar_type());
  };
  return {
      gradient(layer.wanted[0], layer.input),
      gradient(layer.wanted[1], layer.weight),
      gradient(layer.wanted[2] && layer.has_bias(), layer.has_bias() ? *layer.bias : Tensor())};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy(
    const LinearLayer& layer, const Tensor& target, const LossArguments& loss) {
  check_layer_dtypes(layer);
  auto [result, count, statistics, _] = cross_entropy(logits_of(layer), target, loss, false);
  TORCH_CHECK(
      loss.reduction != Reduction::none || !layer.wants_any(),
      "linear_cross_entropy: expected reduction 'mean' or 'sum' for gradients in the forward pass");
  return std::tuple_cat(
      std::tuple(std::move(result), std::move(count), std::move(statistics)),
      linear_gradients(layer));
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const Tensor& grad,
    const Tensor& count,
    const Tensor& statistics,
    const LinearLayer& layer,
    const Tensor& target,
    const LossArguments& loss) {
  check_layer_dtypes(layer);
  check_backward(grad, std::nullopt, logits_of(layer), target, count, statistics, loss);
  return linear_gradients(layer);
}

Tensor class_indices(const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt) {
  const char* const op = "cross_entropy";
  check_class_target(op, self, target, wrapped_dim(op, dim, self.dim()));
  return empty_of(self, target.sym_sizes(), at::kLong);
}

void scale_gradient(const Tensor& gradient, const Tensor& grad, int64_t dim) {
  const char* const op = "scale_gradient";
  dim = wrapped_dim(op, dim, gradient.dim());
  check_element_type(op, "gradient", gradient);
  check_same_device(op, "grad", grad, gradient);
  check_dtype(op, "grad", grad, lane_dtype(gradient.scalar_type()));
  const auto rows = row_sizes(gradient, dim, /*keepdim=*/false);
  const auto leading = std::min<size_t>(grad.dim(), rows.size());
  check_sizes(op, "grad", grad, c10::SymIntArrayRef(rows).slice(0, leading));
  TORCH_CHECK(
      grad.dim() <= dim || leading == rows.size(),
      op,
      ": expected a grad of the dims before ",
      dim,
      " or of all rows, got shape ",
      grad.sym_sizes());
  check_writable(op, gradient);
}

Tensor temperature_statistics(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t dim,
    double scale) {
  const char* const op = "temperature_statistics";
  dim = wrapped_dim(op, dim, self.dim());
  TORCH_CHECK(self.dim() > 0, op, ": expected an input of at least 1 dim, got a 0-d tensor");
  check_element_type(op, "input", self);
  check_class_target(op, self, target, dim);
  TORCH_CHECK(
      target.scalar_type() == at::kLong,
      op,
      ": expected target of dtype int64, got ",
      target.scalar_type());
  if (weight) {
    check_same_device(op, "weight", *weight, self);
    check_row_values(op, "weight", *weight, self, dim, /*keepdim=*/false);
    TORCH_CHECK(
        weight->scalar_type() == at::kDouble,
        op,
        ": expected weight of dtype float64, got ",
        weight->scalar_type());
  }
  TORCH_CHECK_VALUE(
      scale > 0 && std::isfinite(scale), op, ": expected a finite scale > 0, got ", scale);
  return empty_of(self, c10::SymInt(5), at::kDouble);
}

}  // namespace softmax_ext::outputs
