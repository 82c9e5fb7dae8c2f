#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

Tensor log_softmax(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype) {
  const Tensor output = outputs::log_softmax(self, temperature, dim, scale, dtype);
  dim = wrapped_dim("log_softmax", dim, self.dim());
  map_logits("log_softmax", &launch_log_softmax, self, temperature, dim, scale, output);
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
  map_gradients(
      "log_softmax_backward",
      &launch_log_softmax_backward,
      grad,
      output,
      temperature,
      dim,
      scale,
      grad_input);
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) {
  m.impl("_log_softmax", &softmax_ext::cuda::log_softmax);
  m.impl("_log_softmax_backward", &softmax_ext::cuda::log_softmax_backward);
}
