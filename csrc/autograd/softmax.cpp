// Derivatives of softmax. Its Jacobian diag(y) − y yᵀ is symmetric: the same operator takes
// gradients back and tangents forward.

#include "csrc/autograd/normalized.h"
#include "csrc/registration.h"

namespace softmax_ext::autograd {
namespace {

struct Softmax {
  static constexpr const char* kName = "SoftmaxExtSoftmaxBackward0";
  static constexpr const char* kBackwardName = "SoftmaxExtSoftmaxBackwardBackward0";
  static constexpr auto forward = primitive::softmax;
  static constexpr auto backward = primitive::softmax_backward;

  static Tensor jvp(
      const Tensor& tangent,
      const Tensor& output,
      const optional<Tensor>& temperature,
      int64_t dim,
      double scale) {
    const auto dtype = output.scalar_type();
    // A float64 temperature needs float64 arithmetic, also where the output is narrower.
    const bool is_double = temperature && temperature->scalar_type() == at::kDouble;
    const auto lane = is_double ? at::kDouble : dtype;
    return backward(tangent.to(dtype), output, temperature, dim, scale, code_of_dtype(lane))
        .to(dtype);
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
    return v * (g - row_sum(y * g, dim)) - g * row_sum(v * y, dim);
  }
  static Tensor backward_output_jvp(
      const Tensor& u, const Tensor& g, const Tensor& y, int64_t dim) {
    return u * (g - row_sum(y * g, dim)) - y * row_sum(u * g, dim);
  }
};

}  // namespace
}  // namespace softmax_ext::autograd

SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  using Kernels = softmax_ext::autograd::Normalized<softmax_ext::autograd::Softmax>;
  m.impl("_softmax", &Kernels::forward);
  m.impl("_softmax_backward", &Kernels::backward);
}
