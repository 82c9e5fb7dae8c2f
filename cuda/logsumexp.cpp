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
  outputs::logsumexp(self, temperature, dim, scale, dtype);
  raise_not_available("logsumexp");
}

Tensor logsumexp_backward(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale) {
  outputs::logsumexp_backward(grad, self, temperature, dim, scale);
  raise_not_available("logsumexp_backward");
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) {
  m.impl("_logsumexp", &softmax_ext::cuda::logsumexp);
  m.impl("_logsumexp_backward", &softmax_ext::cuda::logsumexp_backward);
}
