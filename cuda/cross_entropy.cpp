#include <tuple>

#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt ignore_index) {
  auto results = outputs::cross_entropy(self, target, dim, ignore_index);
  const auto& [loss, max, log_sum] = results;
  if (loss.numel() == 0) return results;
  dim = wrapped_dim("cross_entropy", dim, self.dim());
  TORCH_CHECK(
      self.numel() > 0, "cross_entropy on CUDA: expected at least 1 class, got 0 in dim ", dim);
  RowsCall call(self, dim, self.scalar_type(), self.scalar_type());
  call.finish(launch_cross_entropy(
      call.problem(),
      call.logits(self),
      call.targets(target, ignore_index.expect_int()),
      {loss.mutable_data_ptr(), max.mutable_data_ptr(), log_sum.mutable_data_ptr()}));
  return results;
}

Tensor cross_entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& max,
    const Tensor& log_sum,
    int64_t dim,
    c10::SymInt ignore_index) {
  const Tensor grad_input =
      outputs::cross_entropy_backward(grad, self, target, max, log_sum, dim, ignore_index);
  if (grad_input.numel() == 0) return grad_input;
  dim = wrapped_dim("cross_entropy_backward", dim, self.dim());
  RowsCall call(self, dim, self.scalar_type(), self.scalar_type());
  call.finish(launch_cross_entropy_backward(
      call.problem(),
      call.logits(self),
      call.targets(target, ignore_index.expect_int()),
      call.row_numbers(grad),
      call.row_numbers(max),
      call.row_numbers(log_sum),
      call.logits_result(grad_input)));
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) {
  m.impl("_cross_entropy", &softmax_ext::cuda::cross_entropy);
  m.impl("_cross_entropy_backward", &softmax_ext::cuda::cross_entropy_backward);
}
