#include <ATen/ops/_assert_async.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ne.h>

#include <algorithm>
#include <tuple>

#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

using Results = std::tuple<Tensor, Tensor, Tensor>;

// The losses of the rows, as the kernels write them and as they are reduced.
class Losses {
 public:
  Losses(const Results& results, const Tensor& target, int64_t reduction)
      : results_(results),
        reduction_(reduction),
        of_rows_(
            reduction == Reduction::none
                ? std::get<0>(results)
                : at::empty(target.sizes(), std::get<0>(results).options())) {}

  CrossEntropyRows rows() const {
    auto* const statistics = static_cast<char*>(std::get<2>(results_).mutable_data_ptr());
    const std::size_t bytes = of_rows_.nbytes();
    return {of_rows_.mutable_data_ptr(), statistics, statistics + bytes};
  }
  void reduce(RowsCall& call, const ClassTargets& targets) const {
    const auto& [result, count, statistics] = results_;
    if (count.numel() == 0) return;
    call.finish(launch_reduce_losses(
        element_type(of_rows_.scalar_type()),
        count.numel(),
        of_rows_.numel() / count.numel(),
        of_rows_.const_data_ptr(),
        targets,
        reduction_ == Reduction::mean,
        reduction_ == Reduction::none ? nullptr : result.mutable_data_ptr(),
        count.mutable_data_ptr<double>(),
        call.problem().stream));
  }

 private:
  const Results& results_;
  int64_t reduction_;
  Tensor of_rows_;
};

// A number for each run of rows as one for each row.
Tensor of_rows(Tensor of_runs, const Tensor& target) {
  while (of_runs.dim() < target.dim()) of_runs = of_runs.unsqueeze(-1);
  return of_runs.expand(target.sizes());
}

// `gradient` is undefined, or where to write the gradient.
void compute(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t ignore_index,
    const Results& results,
    const Tensor& gradient) {
  const auto& [result, count, statistics] = results;
  dim = wrapped_dim("cross_entropy", dim, self.dim());
  TORCH_CHECK(
      self.numel() > 0 || target.numel() == 0,
      "cross_entropy on CUDA: expected at least 1 class, got 0 in dim ",
      dim);
  RowsCall call(self, dim, self.scalar_type(), self.scalar_type());
  const Losses losses(results, target, reduction);
  const ClassTargets targets = call.targets(target, ignore_index);
  if (target.numel() > 0) {
    if (!gradient.defined()) {
      call.finish(launch_cross_entropy(call.problem(), call.logits(self), targets, losses.rows()));
    } else {
      const auto lane = statistics.options();
      Tensor grads = at::full({}, 1, lane);
      if (reduction == Reduction::mean) {
        const Tensor valid = at::ne(target.to(at::kLong), ignore_index).to(at::kDouble);
        const Tensor counts =
            target.dim() > count.dim() ? valid.flatten(count.dim(), -1).sum(-1) : valid;
        grads = counts.reciprocal().to(lane.dtype());
      }
      call.finish(launch_cross_entropy_with_gradient(
          call.problem(),
          call.logits(self),
          // Read before any logit is overwritten, by other threads than those that need it.
          call.target_logits(self, target),
          targets,
          call.row_numbers(of_rows(grads, target)),
          losses.rows(),
          call.logits_result(gradient)));
    }
  }
  losses.reduce(call, targets);
}

Results cross_entropy(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  const Results results =
      outputs::cross_entropy(self, target, dim, reduction, leading, ignore_index);
  compute(self, target, dim, reduction, ignore_index.expect_int(), results, Tensor());
  return results;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_with_gradient(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  const auto [result, count, statistics, gradient] =
      outputs::cross_entropy_with_gradient(self, target, dim, reduction, leading, ignore_index);
  compute(
      self,
      target,
      dim,
      reduction,
      ignore_index.expect_int(),
      {result, count, statistics},
      gradient);
  return {result, count, statistics, gradient};
}

Results cross_entropy_in_place(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  const Results results =
      outputs::cross_entropy_in_place(self, target, dim, reduction, leading, ignore_index);
  if (self.is_contiguous()) {
    compute(self, target, dim, reduction, ignore_index.expect_int(), results, self);
  } else {
    const Tensor gradient = at::empty(self.sizes(), self.options());
    compute(self, target, dim, reduction, ignore_index.expect_int(), results, gradient);
    self.copy_(gradient);
  }
  return results;
}

Tensor cross_entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    int64_t dim,
    int64_t reduction,
    c10::SymInt ignore_index) {
  const Tensor grad_input = outputs::cross_entropy_backward(
      grad, self, target, count, statistics, dim, reduction, ignore_index);
  if (grad_input.numel() == 0) return grad_input;
  dim = wrapped_dim("cross_entropy_backward", dim, self.dim());
  RowsCall call(self, dim, self.scalar_type(), self.scalar_type());
  Tensor grads = grad;
  if (reduction == Reduction::mean) grads = grad.div(count.to(grad.scalar_type()));
  call.finish(launch_cross_entropy_backward(
      call.problem(),
      call.logits(self),
      call.targets(target, ignore_index.expect_int()),
      call.row_numbers(of_rows(grads, target)),
      call.row_numbers(statistics.select(0, 0)),
      call.row_numbers(statistics.select(0, 1)),
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
  m.impl("_cross_entropy", &softmax_ext::cuda::cross_entropy);
  m.impl("_cross_entropy_with_gradient", &softmax_ext::cuda::cross_entropy_with_gradient);
  m.impl("_cross_entropy_in_place", &softmax_ext::cuda::cross_entropy_in_place);
  m.impl("_cross_entropy_backward", &softmax_ext::cuda::cross_entropy_backward);
  m.impl("_class_indices", &softmax_ext::cuda::class_indices);
  m.impl("_scale_gradient", &softmax_ext::cuda::scale_gradient);
}
