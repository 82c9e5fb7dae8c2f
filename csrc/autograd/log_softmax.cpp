// Derivatives of log_softmax: its Jacobian is I − 1 pᵀ with p = exp(y).

#include "csrc/autograd/normalized.h"
#include "csrc/registration.h"

namespace softmax_ext::autograd {
namespace {

struct LogSoftmax {
  static constexpr const char* kName = "SoftmaxExtLogSoftmaxBackward0";
  static constexpr const char* kBackwardName = "SoftmaxExtLogSoftmaxBackwardBackward0";
  static constexpr auto forward = primitive::log_softmax;
  static constexpr auto backward = primitive::log_softmax_backward;

  static Tensor jvp(
      const Tensor& tangent,
      const Tensor& output,
      const optional<Tensor>& temperature,
      int64_t dim,
      double scale) {
    const Tensor probs = output.to(tangent.scalar_type()).exp();
    const Tensor result =
        divided_by_temperature(tangent - row_sum(probs * tangent, dim), temperature, scale);
    return result.to(output.scalar_type());
  }
  static Tensor backward_transposed(
      const Tensor& v,
      const Tensor& output,
      const optional<Tensor>& temperature,
      int64_t dim,
      double scale) {
    return jvp(v, output, temperature, dim, scale);
  }
  static Tensor backward_output_vjp(
      const Tensor& v, const Tensor& g, const Tensor& y, int64_t dim) {
    return -(v * y.exp() * row_sum(g, dim));
  }
  static Tensor backward_output_jvp(
      const Tensor& u, const Tensor& g, const Tensor& y, int64_t dim) {
    return backward_output_vjp(u, g, y, dim);
  }
};

}  // namespace
}  // namespace softmax_ext::autograd

SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  using Kernels = softmax_ext::autograd::Normalized<softmax_ext::autograd::LogSoftmax>;
  m.impl("_log_softmax", &Kernels::forward);
  m.impl("_log_softmax_backward", &Kernels::backward);
}
