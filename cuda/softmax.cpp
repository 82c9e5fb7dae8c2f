#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

void write(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& output) {
  if (output.numel() == 0) return;
  dim = wrapped_dim("softmax", dim, self.dim());
  RowsCall call(self, dim, self.scalar_type(), output.scalar_type());
  call.set_temperature(temperature, scale);
  call.finish(launch_softmax(call.problem(), call.logits(self), call.outputs_result(output)));
}

void write_backward(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& grad_input) {
  if (grad_input.numel() == 0) return;
  dim = wrapped_dim("softmax_backward", dim, output.dim());
  RowsCall call(output, dim, grad_input.scalar_type(), output.scalar_type());
  call.set_temperature(temperature, scale);
  call.finish(launch_softmax_backward(
      call.problem(), call.outputs(grad), call.outputs(output), call.logits_result(grad_input)));
}

Tensor softmax(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype) {
  const Tensor output = outputs::softmax(self, temperature, dim, scale, dtype);
  write(self, temperature, dim, scale, output);
  return output;
}

Tensor softmax_backward(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    int64_t dtype) {
  const Tensor grad_input = outputs::softmax_backward(grad, output, temperature, dim, scale, dtype);
  write_backward(grad, output, temperature, dim, scale, grad_input);
  return grad_input;
}

void softmax_into(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& out) {
  outputs::softmax_into(self, temperature, dim, scale, out);
  write(self, temperature, dim, scale, out);
}

void softmax_backward_into(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& out) {
  outputs::softmax_backward_into(grad, output, temperature, dim, scale, out);
  write_backward(grad, output, temperature, dim, scale, out);
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) {
  m.impl("_softmax", &softmax_ext::cuda::softmax);
  m.impl("_softmax_backward", &softmax_ext::cuda::softmax_backward);
  m.impl("_softmax_into", &softmax_ext::cuda::softmax_into);
  m.impl("_softmax_backward_into", &softmax_ext::cuda::softmax_backward_into);
}
