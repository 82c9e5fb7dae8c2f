#include "csrc/cpu/walk_rows.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

Tensor softmax(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype) {
  const Tensor output = outputs::softmax(self, temperature, dim, scale, dtype);
  map_logits<SoftmaxForward>(
      self, temperature, wrapped_dim("softmax", dim, self.dim()), scale, output);
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
  dim = wrapped_dim("softmax_backward", dim, output.dim());
  map_gradients<SoftmaxBackward>(grad, output, temperature, dim, scale, grad_input);
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_softmax", &softmax_ext::cpu::softmax);
  m.impl("_softmax_backward", &softmax_ext::cpu::softmax_backward);
}
