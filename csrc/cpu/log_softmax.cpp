#include "csrc/cpu/walk_gradients.h"
#include "csrc/cpu/walk_logits.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

void write(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& output) {
  dim = wrapped_dim("log_softmax", dim, self.dim());
  map_logits<LogSoftmaxRows>(self, temperature, dim, scale, output);
}

void write_backward(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& grad_input) {
  dim = wrapped_dim("log_softmax_backward", dim, output.dim());
  map_gradients(
      &simd::Kernels::log_softmax_backward, grad, output, temperature, dim, scale, grad_input);
}

Tensor log_softmax(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype) {
  const Tensor output = outputs::log_softmax(self, temperature, dim, scale, dtype);
  write(self, temperature, dim, scale, output);
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
  write_backward(grad, output, temperature, dim, scale, grad_input);
  return grad_input;
}

void log_softmax_into(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& out) {
  outputs::log_softmax_into(self, temperature, dim, scale, out);
  write(self, temperature, dim, scale, out);
}

void log_softmax_backward_into(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& out) {
  outputs::log_softmax_backward_into(grad, output, temperature, dim, scale, out);
  write_backward(grad, output, temperature, dim, scale, out);
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_log_softmax", &softmax_ext::cpu::log_softmax);
  m.impl("_log_softmax_backward", &softmax_ext::cpu::log_softmax_backward);
  m.impl("_log_softmax_into", &softmax_ext::cpu::log_softmax_into);
  m.impl("_log_softmax_backward_into", &softmax_ext::cpu::log_softmax_backward_into);
}
