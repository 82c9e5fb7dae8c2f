#include <limits>

#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

Tensor logsumexp(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype) {
  const Tensor result = outputs::logsumexp(self, temperature, dim, scale, dtype);
  if (result.numel() == 0) return result;
  if (self.numel() == 0) return result.fill_(-std::numeric_limits<double>::infinity());
  dim = wrapped_dim("logsumexp", dim, self.dim());
  RowsCall call(self, dim, self.scalar_type(), result.scalar_type());
  call.set_temperature(temperature, scale);
  call.finish(launch_logsumexp(call.problem(), call.logits(self), call.outputs_result(result)));
  return result;
}

Tensor logsumexp_backward(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale) {
  const Tensor grad_input = outputs::logsumexp_backward(grad, self, temperature, dim, scale);
  if (grad_input.numel() == 0) return grad_input;
  dim = wrapped_dim("logsumexp_backward", dim, self.dim());
  RowsCall call(self, dim, self.scalar_type(), grad.scalar_type());
  call.set_temperature(temperature, scale);
  call.finish(launch_logsumexp_backward(
      call.problem(), call.logits(self), call.row_outputs(grad), call.logits_result(grad_input)));
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) {
  m.impl("_logsumexp", &softmax_ext::cuda::logsumexp);
  m.impl("_logsumexp_backward", &softmax_ext::cuda::logsumexp_backward);
}
