#include <tuple>

#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt ignore_index) {
  outputs::cross_entropy(self, target, dim, ignore_index);
  raise_not_available("cross_entropy");
}

Tensor cross_entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& max,
    const Tensor& log_sum,
    int64_t dim,
    c10::SymInt ignore_index) {
  outputs::cross_entropy_backward(grad, self, target, max, log_sum, dim, ignore_index);
  raise_not_available("cross_entropy_backward");
}

std::tuple<Tensor, Tensor> reduce_losses(
    const Tensor& losses,
    const Tensor& target,
    int64_t leading,
    bool mean,
    c10::SymInt ignore_index) {
  outputs::reduce_losses(losses, target, leading, mean, ignore_index);
  raise_not_available("reduce_losses");
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) {
  m.impl("_cross_entropy", &softmax_ext::cuda::cross_entropy);
  m.impl("_cross_entropy_backward", &softmax_ext::cuda::cross_entropy_backward);
  m.impl("_reduce_losses", &softmax_ext::cuda::reduce_losses);
}
