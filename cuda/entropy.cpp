#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

Tensor entropy(const Tensor& self, const optional<Tensor>& temperature, int64_t dim, double scale) {
  const Tensor result = outputs::entropy(self, temperature, dim, scale);
  if (self.numel() == 0) return result.fill_(0);
  dim = wrapped_dim("entropy", dim, self.dim());
  RowsCall call(self, dim, self.scalar_type(), self.scalar_type());
  call.set_temperature(temperature, scale);
  call.finish(launch_entropy(call.problem(), call.logits(self), result.mutable_data_ptr()));
  return result;
}

Tensor entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale) {
  const Tensor grad_input = outputs::entropy_backward(grad, self, temperature, dim, scale);
  if (grad_input.numel() == 0) return grad_input;
  dim = wrapped_dim("entropy_backward", dim, self.dim());
  // A float64 gradient wants float64 arithmetic, also of narrower logits.
  const auto lane = lane_dtype(self.scalar_type(), grad.scalar_type());
  const auto logits = lane_dtype(self.scalar_type()) == lane ? self.scalar_type() : lane;
  RowsCall call(self, dim, logits, logits);
  call.set_temperature(temperature, scale);
  call.finish(launch_entropy_backward(
      call.problem(),
      call.logits(self),
      call.row_numbers(grad.to(lane)),
      call.logits_result(grad_input)));
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) {
  m.impl("_entropy", &softmax_ext::cuda::entropy);
  m.impl("_entropy_backward", &softmax_ext::cuda::entropy_backward);
}
