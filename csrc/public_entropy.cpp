#include <ATen/TensorOperators.h>

#include <cmath>

#include "csrc/arguments.h"
#include "csrc/element_type.h"
#include "csrc/primitives.h"
#include "csrc/public_operators.h"

namespace softmax_ext::public_operator {
namespace {

Tensor entropy_in(
    const Tensor& self,
    int64_t dim,
    const optional<Tensor>& temperature,
    double scale,
    double base) {
  TORCH_CHECK_VALUE(
      base > 0 && base != 1 && std::isfinite(base),
      "entropy: expected a base of logarithms, finite, above 0 and not 1, got ",
      base);
  const auto lane = lane_dtype(self.scalar_type());
  const Tensor kept =
      primitive::entropy(self, temperature_in("entropy", temperature, lane), dim, scale);
  const Tensor nats = self.dim() == 0 ? kept : kept.squeeze(dim);
  return base == M_E ? nats : nats / std::log(base);
}

}  // namespace

Tensor entropy(const Tensor& self, int64_t dim, const optional<Tensor>& temperature, double base) {
  return entropy_in(self, dim, temperature, 1.0, base);
}

Tensor entropy_float(const Tensor& self, int64_t dim, double temperature, double base) {
  return entropy_in(self, dim, std::nullopt, scale_of("entropy", temperature), base);
}

}  // namespace softmax_ext::public_operator
