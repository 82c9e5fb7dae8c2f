#include "csrc/cpu/walk_rows.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

Tensor log_softmax(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype) {
  const Tensor output = outputs::log_softmax(self, temperature, dim, scale, dtype);
  map_logits<LogSoftmaxForward>(
      self, temperature, wrapped_dim("log_softmax", dim, self.dim()), scale, output);
  return output;
}

Tensor log_softmax_backward(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    int64_t dtype) {
  const Tensor grad_input =
      outputs::log_softmax_backward(grad, output, temperature, dim, scale, dtype);
  dim = wrapped_dim("log_softmax_backward", dim, output.dim());
  map_gradients<LogSoftmaxBackward>(grad, output, temperature, dim, scale, grad_input);
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_log_softmax", &softmax_ext::cpu::log_softmax);
  m.impl("_log_softmax_backward", &softmax_ext::cpu::log_softmax_backward);
}
