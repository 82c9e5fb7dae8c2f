// The cross-entropy of a linear layer's outputs, which are never there as a whole: a chunk of rows at a time
// they are made by ATen's matrix product, and become their own gradient where that is wanted, of which two
// more products make those of the layer. One code for all devices, of which every part is an operator.

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include "csrc/element_type.h"
#include "csrc/loss_outputs.h"
#include "csrc/losses.h"
#include "csrc/output_checks.h"
#include "csrc/primitives.h"
#include "csrc/registration.h"

namespace softmax_ext {
namespace {

// Rows [first, first + count) of what has a number or a row for each.
Tensor rows_of(const Tensor& tensor, int64_t first, int64_t count) {
  return tensor.narrow(0, first, count);
}
LossArguments loss_of_chunk(const LossArguments& loss, int64_t rows, int64_t first, int64_t count) {
  LossArguments of_chunk = loss;
  of_chunk.reduction = Reduction::none;
  if (loss.has_temperature() && loss.temperature->dim() == 2 && loss.temperature->size(0) == rows)
    of_chunk.temperature = rows_of(*loss.temperature, first, count);
  return of_chunk;
}

// As few chunks of at most `most` rows, and all of nearly one size: a product with few rows is slow.
int64_t even_chunk(int64_t rows, int64_t most) {
  if (rows == 0) return 1;
  const int64_t chunks = (rows + most - 1) / most;
  return (rows + chunks - 1) / chunks;
}

// The logits of one chunk after another, in the same memory.
class ChunkedLogits {
 public:
  explicit ChunkedLogits(const LinearLayer& layer)
      : layer_(layer),
        rows_(layer.input.size(0)),
        chunk_(even_chunk(rows_, layer.chunk.expect_int())),
        memory_(outputs::empty_of(
            layer.input,
            c10::SymDimVector{chunk_, layer.weight.size(0)},
            layer.input.scalar_type())) {}

  // body(first row, rows, inputs, logits)
  template <typename Body>
  void for_each(Body body) {
    for (int64_t first = 0; first < rows_; first += chunk_) {
      const int64_t count = std::min(chunk_, rows_ - first);
      const Tensor inputs = rows_of(layer_.input, first, count);
      Tensor logits = rows_of(memory_, 0, count);
      if (layer_.has_bias())
        at::addmm_out(logits, *layer_.bias, inputs, layer_.weight.t());
      else
        at::mm_out(logits, inputs, layer_.weight.t());
      body(first, count, inputs, logits);
    }
  }

 private:
  const LinearLayer& layer_;
  int64_t rows_;
  int64_t chunk_;
  Tensor memory_;
};

// The gradients of the layer, added up over chunks: in the dtype of the arithmetic, as sums of many
// numbers of 16 bits would lose most of them.
class LayerGradients {
 public:
  LayerGradients(const LinearLayer& layer, const std::tuple<Tensor, Tensor, Tensor>& results)
      : layer_(layer), results_(results) {
    const auto lane = lane_dtype(layer.input.scalar_type());
    is_lane_ = lane == layer.input.scalar_type();
    const auto sums = [&](bool is_wanted, const Tensor& result) {
      if (!is_wanted) return Tensor();
      return is_lane_ ? result : at::empty(result.sizes(), result.options().dtype(lane));
    };
    weight_ = sums(layer.wanted[1], std::get<1>(results_));
    bias_ = sums(layer.wanted[2] && layer.has_bias(), std::get<2>(results_));
  }

  void add(int64_t first, const Tensor& inputs, const Tensor& of_logits) {
    if (layer_.wanted[0]) {
      Tensor to = rows_of(std::get<0>(results_), first, inputs.size(0));
      at::mm_out(to, of_logits, layer_.weight);
    }
    const auto add_to = [&](Tensor& sum, const Tensor& part) {
      if (is_empty_)
        sum.copy_(part);
      else
        sum.add_(part);
    };
    if (weight_.defined() && is_lane_)
      at::addmm_out(weight_, weight_, of_logits.t(), inputs, /*beta=*/is_empty_ ? 0 : 1);
    if (weight_.defined() && !is_lane_) add_to(weight_, product(of_logits.t(), inputs));
    if (bias_.defined()) add_to(bias_, of_logits.sum(0, /*keepdim=*/false, bias_.scalar_type()));
    is_empty_ = false;
  }

  // In the dtype of the arithmetic, where that is to be had: sums over many rows leave float16.
  static Tensor product(const Tensor& a, const Tensor& b) {
    if (a.is_cuda()) return at::mm(a, b, at::kFloat);
    if (a.scalar_type() == at::kHalf) return at::mm(a.to(at::kFloat), b.to(at::kFloat));
    return at::mm(a, b);
  }

  // Once, after all chunks: times `factor`, of one element, or undefined for 1.
  void finish(const Tensor& factor) {
    auto [of_input, of_weight, of_bias] = results_;
    if (is_empty_) {  // there is no row
      if (weight_.defined()) weight_.zero_();
      if (bias_.defined()) bias_.zero_();
    }
    if (factor.defined()) {
      // With a dim: a number without one would be taken in 16 bits.
      const Tensor number = factor.reshape({1});
      if (layer_.wanted[0]) of_input.mul_(number);
      if (weight_.defined()) weight_.mul_(number);
      if (bias_.defined()) bias_.mul_(number);
    }
    if (is_lane_) return;
    if (weight_.defined()) of_weight.copy_(weight_);
    if (bias_.defined()) of_bias.copy_(bias_);
  }

 private:
  const LinearLayer& layer_;
  std::tuple<Tensor, Tensor, Tensor> results_;
  bool is_lane_;
  bool is_empty_ = true;
  Tensor weight_;
  Tensor bias_;
};

// 1 / count for a mean, in the dtype of the arithmetic; else undefined.
Tensor factor_of(const LossArguments& loss, const Tensor& count, const Tensor& statistics) {
  if (loss.reduction != Reduction::mean) return Tensor();
  return count.reciprocal().to(statistics.scalar_type()).masked_fill(count == 0, 0);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy(
    const LinearLayer& layer, const Tensor& target, const LossArguments& loss) {
  const auto outputs = outputs::linear_cross_entropy(layer, target, loss);
  const auto& [result, count, statistics, of_input, of_weight, of_bias] = outputs;
  const int64_t rows = layer.input.size(0);
  const bool is_none = loss.reduction == Reduction::none;
  // Before anything is computed; on CUDA each chunk asserts it.
  if (layer.input.is_cpu() && has_classes(target))
    primitive::class_indices(outputs::logits_of(layer), target, loss.dim, loss.ignore_index);
  const Tensor losses = is_none ? result : at::empty({rows}, result.options());
  count.zero_();
  LayerGradients gradients(layer, {of_input, of_weight, of_bias});
  // What the mean divides by is known at last.
  ChunkedLogits(layer).for_each(
      [&](int64_t first, int64_t some, const Tensor& inputs, const Tensor& logits) {
        const Tensor targets = rows_of(target, first, some);
        const LossArguments of_chunk = loss_of_chunk(loss, rows, first, some);
        Tensor of_rows, in_chunk, numbers;
        if (layer.wants_any()) {
          std::tie(of_rows, in_chunk, numbers) =
              call_loss(primitive::cross_entropy_in_place, logits, targets, of_chunk);
          gradients.add(first, inputs, logits);
        } else {
          std::tie(of_rows, in_chunk, numbers, std::ignore) =
              call_loss(primitive::cross_entropy, logits, targets, of_chunk, false);
        }
        rows_of(losses, first, some).copy_(of_rows);
        statistics.narrow(1, first, some).copy_(numbers);
        count.add_(in_chunk);
      });
  if (!is_none) {
    const Tensor sum = losses.sum(at::kDouble);
    result.copy_(loss.reduction == Reduction::mean ? sum / count : sum);
  }
  gradients.finish(factor_of(loss, count, statistics));
  return outputs;
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const Tensor& grad,
    const Tensor& count,
    const Tensor& statistics,
    const LinearLayer& layer,
    const Tensor& target,
    const LossArguments& loss) {
  const auto results =
      outputs::linear_cross_entropy_backward(grad, count, statistics, layer, target, loss);
  const int64_t rows = layer.input.size(0);
  // One number for all rows is put on the sums: 16 bits would lose what it makes small.
  const bool is_none = loss.reduction == Reduction::none;
  const Tensor grads = is_none ? grad : at::ones({1}, grad.options()).expand({rows});
  LayerGradients gradients(layer, results);
  ChunkedLogits(layer).for_each(
      [&](int64_t first, int64_t some, const Tensor& inputs, const Tensor& logits) {
        const Tensor of_logits = call_loss_backward(
            primitive::cross_entropy_backward,
            rows_of(grads, first, some),
            std::nullopt,
            logits,
            rows_of(target, first, some),
            count,
            statistics.narrow(1, first, some),
            loss_of_chunk(loss, rows, first, some));
        gradients.add(first, inputs, of_logits);
      });
  const Tensor factor = factor_of(loss, count, statistics);
  gradients.finish(is_none ? Tensor() : factor.defined() ? grad * factor : grad);
  return results;
}

void register_linear_losses(torch::Library& m) {
  m.impl("_linear_cross_entropy", &linear_cross_entropy_of<linear_cross_entropy>);
  m.impl(
      "_linear_cross_entropy_backward",
      &linear_cross_entropy_backward_of<linear_cross_entropy_backward>);
}

}  // namespace
}  // namespace softmax_ext

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) { softmax_ext::register_linear_losses(m); }
SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) { softmax_ext::register_linear_losses(m); }
