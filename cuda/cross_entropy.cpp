#include <ATen/TensorOperators.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ne.h>

#include <algorithm>
#include <tuple>

#include "csrc/element_type.h"
#include "csrc/loss_outputs.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

// The losses of the rows, as the kernels write them and as they are reduced.
class Losses {
 public:
  Losses(const Tensor& result, const Tensor& count, const Tensor& statistics, int64_t reduction)
      : result_(result),
        count_(count),
        statistics_(statistics),
        reduction_(reduction),
        of_rows_(
            reduction == Reduction::none
                ? result
                : at::empty(statistics.sizes().slice(1), statistics.options())) {}

  CrossEntropyRows rows() const {
    auto* const statistics = static_cast<char*>(statistics_.mutable_data_ptr());
    return {of_rows_.mutable_data_ptr(), statistics, statistics + of_rows_.nbytes()};
  }
  void reduce(RowsCall& call, const ClassTargets& targets) const {
    if (count_.numel() == 0) return;
    call.finish(launch_reduce_losses(
        element_type(of_rows_.scalar_type()),
        count_.numel(),
        of_rows_.numel() / count_.numel(),
        of_rows_.const_data_ptr(),
        targets,
        reduction_ == Reduction::mean,
        reduction_ == Reduction::none ? nullptr : result_.mutable_data_ptr(),
        count_.mutable_data_ptr<double>(),
        call.problem().stream));
  }
  // The same by counts that are there already.
  void reduce() const {
    if (reduction_ == Reduction::none) return;
    const Tensor sums = summed(of_rows_.to(at::kDouble), count_.dim());
    result_.copy_(reduction_ == Reduction::mean ? sums / count_ : sums);
  }

  // Over all but the first `leading` dims.
  static Tensor summed(const Tensor& rows, int64_t leading) {
    return leading < rows.dim() ? rows.flatten(leading, -1).sum(-1) : rows;
  }

 private:
  const Tensor& result_;
  const Tensor& count_;
  const Tensor& statistics_;
  int64_t reduction_;
  Tensor of_rows_;
};

// A number for each run of rows as one for each row.
Tensor of_rows(Tensor of_runs, at::IntArrayRef sizes) {
  while (of_runs.dim() < static_cast<int64_t>(sizes.size())) of_runs = of_runs.unsqueeze(-1);
  return of_runs.expand(sizes);
}

// Which rows are not ignored.
Tensor valid_rows(const Tensor& target, const LossArguments& loss) {
  return at::ne(target.to(at::kLong), loss.ignore_index.expect_int());
}

// What the mean of each run of rows divides by.
Tensor counts_of(
    const Tensor& target, const LossArguments& loss, at::IntArrayRef rows, const Tensor& count) {
  if (!has_classes(target)) {
    int64_t number = 1;
    for (size_t dim = loss.leading; dim < rows.size(); ++dim) number *= rows[dim];
    return at::full_like(count, static_cast<double>(number));
  }
  const Tensor valid = valid_rows(target, loss);
  if (!loss.has_weight()) return Losses::summed(valid.to(at::kDouble), loss.leading);
  // Whether targets are in range is for the kernel to say.
  const int64_t last = std::max<int64_t>(loss.weight->numel() - 1, 0);
  const Tensor classes = target.to(at::kLong).clamp(0, last);
  const Tensor weights = loss.weight->index_select(0, classes.flatten()).view(rows);
  return Losses::summed(weights.to(at::kDouble).masked_fill(valid.logical_not(), 0), loss.leading);
}

Tensor divided(const Tensor& grad, const Tensor& count) {
  return grad.div(count.to(grad.scalar_type())).masked_fill(grad == 0, 0);
}

// `logsumexp` is undefined where it is not wanted; `gradient` is, or it is where to write it.
void compute(
    const Tensor& self,
    const Tensor& target,
    const LossArguments& loss,
    const Tensor& result,
    const Tensor& count,
    const Tensor& statistics,
    const Tensor& logsumexp,
    const Tensor& gradient) {
  const int64_t dim = wrapped_dim("cross_entropy", loss.dim, self.dim());
  const at::IntArrayRef sizes = statistics.sizes().slice(1);
  TORCH_CHECK(
      self.numel() > 0 || statistics.numel() == 0,
      "cross_entropy on CUDA: expected at least 1 class, got 0 in dim ",
      dim);
  RowsCall call(self, dim, self.scalar_type(), self.scalar_type());
  const Losses losses(result, count, statistics, loss.reduction);
  const auto ones = [&] {
    const Tensor one = at::full({}, 1, statistics.options());
    if (loss.reduction != Reduction::mean) return one;
    return divided(one, counts_of(target, loss, sizes, count));
  };
  if (is_plain(loss, target) && !logsumexp.defined()) {
    const ClassTargets targets = call.targets(target, loss.ignore_index.expect_int());
    if (self.numel() > 0 && !gradient.defined())
      call.finish(launch_cross_entropy(call.problem(), call.logits(self), targets, losses.rows()));
    else if (self.numel() > 0)
      call.finish(launch_cross_entropy_with_gradient(
          call.problem(),
          call.logits(self),
          // Read before any logit is overwritten, by other threads than those that need it.
          call.target_logits(self, target),
          targets,
          call.row_numbers(of_rows(ones(), sizes)),
          losses.rows(),
          call.logits_result(gradient)));
    losses.reduce(call, targets);
    return;
  }
  count.copy_(counts_of(target, loss, sizes, count));
  if (self.numel() > 0) {
    const WeightedLoss weighted = weighted_loss(call, target, loss);
    call.finish(launch_weighted_loss(
        call.problem(),
        call.logits(self),
        weighted,
        {
            losses.rows(), logsumexp.defined() ? logsumexp.mutable_data_ptr() : nullptr
    },
        {gradient.defined() ? call.row_numbers(of_rows(ones(), sizes)) : RowNumbers{nullptr, 0},
         {nullptr, 0}},
        gradient.defined() ? call.logits_result(gradient) : nullptr));
  }
  losses.reduce();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self, const Tensor& target, const LossArguments& loss, bool has_logsumexp) {
  const auto results = outputs::cross_entropy(self, target, loss, has_logsumexp);
  const auto& [result, count, statistics, logsumexp] = results;
  compute(
      self,
      target,
      loss,
      result,
      count,
      statistics,
      has_logsumexp ? logsumexp : Tensor(),
      Tensor());
  return results;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_with_gradient(
    const Tensor& self, const Tensor& target, const LossArguments& loss) {
  const auto results = outputs::cross_entropy_with_gradient(self, target, loss);
  const auto& [result, count, statistics, gradient] = results;
  compute(self, target, loss, result, count, statistics, Tensor(), gradient);
  return results;
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_in_place(
    const Tensor& self, const Tensor& target, const LossArguments& loss) {
  const auto results = outputs::cross_entropy_in_place(self, target, loss);
  const auto& [result, count, statistics] = results;
  if (self.is_contiguous()) {
    compute(self, target, loss, result, count, statistics, Tensor(), self);
  } else {
    const Tensor gradient = at::empty(self.sizes(), self.options());
    compute(self, target, loss, result, count, statistics, Tensor(), gradient);
    self.copy_(gradient);
  }
  return results;
}

Tensor cross_entropy_backward(
    const Tensor& grad,
    const optional<Tensor>& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    const LossArguments& loss) {
  const Tensor grad_input =
      outputs::cross_entropy_backward(grad, grad_logsumexp, self, target, count, statistics, loss);
  if (grad_input.numel() == 0) return grad_input;
  const int64_t dim = wrapped_dim("cross_entropy_backward", loss.dim, self.dim());
  RowsCall call(self, dim, self.scalar_type(), self.scalar_type());
  const at::IntArrayRef sizes = statistics.sizes().slice(1);
  const Tensor grads =
      of_rows(loss.reduction == Reduction::mean ? divided(grad, count) : grad, sizes);
  const bool has_logsumexp = grad_logsumexp && grad_logsumexp->defined();
  if (is_plain(loss, target) && !has_logsumexp) {
    call.finish(launch_cross_entropy_backward(
        call.problem(),
        call.logits(self),
        call.targets(target, loss.ignore_index.expect_int()),
        call.row_numbers(grads),
        call.row_numbers(statistics.select(0, 0)),
        call.row_numbers(statistics.select(0, 1)),
        call.logits_result(grad_input)));
    return grad_input;
  }
  const WeightedLoss weighted = weighted_loss(call, target, loss);
  const Tensor of_rows = statistics.contiguous();
  auto* const maxima =
      static_cast<char*>(const_cast<void*>(of_rows.const_data_ptr()));  // read alone
  call.finish(launch_weighted_loss_backward(
      call.problem(),
      call.logits(self),
      weighted,
      {
          nullptr, maxima, maxima + of_rows.nbytes() / 2
  },
      {call.row_numbers(grads),
       has_logsumexp ? call.row_numbers(*grad_logsumexp) : RowNumbers{nullptr, 0}},
      call.logits_result(grad_input)));
  return grad_input;
}

Tensor class_indices(
    const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt symbolic_ignore_index) {
  outputs::class_indices(self, target, dim, symbolic_ignore_index);
  dim = wrapped_dim("cross_entropy", dim, self.dim());
  const Tensor classes = target.to(at::kLong);
  const Tensor ignored = classes.eq(symbolic_ignore_index.expect_int());
  const Tensor indices = classes.masked_fill(ignored, 0).contiguous();
  // An assertion of the device.
  at::_assert_async(
      indices.ge(0).logical_and(indices.lt(self.size(dim))).logical_or(ignored).all(),
      "cross_entropy: expected targets in [0, classes) or ignore_index");
  return indices.clamp(0, std::max<int64_t>(self.size(dim) - 1, 0));
}

void scale_gradient(const Tensor& gradient, const Tensor& grad, int64_t dim) {
  outputs::scale_gradient(gradient, grad, dim);
  if (gradient.numel() == 0) return;
  dim = wrapped_dim("scale_gradient", dim, gradient.dim());
  if (!gradient.is_contiguous()) {
    Tensor rows = grad;
    while (rows.dim() + 1 < gradient.dim()) rows = rows.unsqueeze(-1);
    gradient.mul_(rows.unsqueeze(dim));
    return;
  }
  const Tensor grads = grad.contiguous();
  const c10::cuda::CUDAGuard device_guard(gradient.device());
  const bool is_per_row = grad.dim() + 1 == gradient.dim();
  const Rows rows = Rows::of(gradient, dim);
  RowsCall call(gradient, dim, gradient.scalar_type(), gradient.scalar_type());
  // A number for each row, or for each run of rows, which are neighbours.
  call.finish(launch_scale_gradient(
      call.problem().types.logits,
      is_per_row ? rows.outer : grads.numel(),
      is_per_row ? rows.length : gradient.numel() / grads.numel(),
      is_per_row ? rows.inner : 1,
      grads.const_data_ptr(),
      gradient.mutable_data_ptr(),
      call.problem().stream));
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) {
  namespace cuda = softmax_ext::cuda;
  softmax_ext::register_losses<
      cuda::cross_entropy,
      cuda::cross_entropy_with_gradient,
      cuda::cross_entropy_in_place,
      cuda::cross_entropy_backward>(m);
  m.impl("_class_indices", &cuda::class_indices);
  m.impl("_scale_gradient", &cuda::scale_gradient);
}
