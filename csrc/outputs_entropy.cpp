#include "csrc/element_type.h"
#include "csrc/output_checks.h"
#include "csrc/outputs.h"

namespace softmax_ext::outputs {

Tensor entropy(const Tensor& self, const optional<Tensor>& temperature, int64_t dim, double) {
  const char* const op = "entropy";
  dim = wrapped_dim(op, dim, self.dim());
  check_element_type(op, "input", self, /*has_dtype=*/false);
  const auto lane = lane_dtype(self.scalar_type());
  check_temperature(op, temperature, self, dim, lane);
  return empty_of(self, row_sizes(self, dim, /*keepdim=*/true), lane);
}

Tensor entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double) {
  const char* const op = "entropy_backward";
  dim = wrapped_dim(op, dim, self.dim());
  check_element_type(op, "input", self);
  check_element_type(op, "grad", grad);
  check_same_device(op, "grad", grad, self);
  check_row_values(op, "grad", grad, self, dim, /*keepdim=*/true);
  const auto lane = lane_dtype(self.scalar_type(), grad.scalar_type());
  check_temperature(op, temperature, self, dim, lane);
  return empty_like_sizes(self, self.scalar_type());
}

}  // namespace softmax_ext::outputs
