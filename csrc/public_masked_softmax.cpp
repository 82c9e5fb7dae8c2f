#include "csrc/element_type.h"
#include "csrc/primitives.h"
#include "csrc/public_operators.h"
#include "csrc/temperature.h"

namespace softmax_ext::public_operator {
namespace {

bool is_zero(const char* op, std::string_view empty) {
  TORCH_CHECK_VALUE(
      empty == "nan" || empty == "zero", op, ": expected empty 'nan' or 'zero', got '", empty, "'");
  return empty == "zero";
}

Tensor masked(
    const Tensor& self,
    const Tensor& mask,
    int64_t dim,
    const optional<Tensor>& temperature,
    double scale,
    std::string_view empty) {
  const char* const op = "masked_softmax";
  return primitive::masked_softmax(
      self,
      mask,
      temperature_in(op, temperature, lane_dtype(self.scalar_type())),
      dim,
      scale,
      std::nullopt,
      /*is_causal=*/false,
      is_zero(op, empty));
}

Tensor causal(
    const Tensor& self, const optional<Tensor>& temperature, double scale, std::string_view empty) {
  const char* const op = "causal_softmax";
  return primitive::masked_softmax(
      self,
      std::nullopt,
      temperature_in(op, temperature, lane_dtype(self.scalar_type())),
      -1,
      scale,
      std::nullopt,
      /*is_causal=*/true,
      is_zero(op, empty));
}

}  // namespace

Tensor masked_softmax(
    const Tensor& self,
    const Tensor& mask,
    int64_t dim,
    const optional<Tensor>& temperature,
    std::string_view empty) {
  return masked(self, mask, dim, temperature, 1.0, empty);
}

Tensor masked_softmax_float(
    const Tensor& self,
    const Tensor& mask,
    int64_t dim,
    double temperature,
    std::string_view empty) {
  return masked(self, mask, dim, std::nullopt, scale_of("masked_softmax", temperature), empty);
}

Tensor causal_softmax(
    const Tensor& self, const optional<Tensor>& temperature, std::string_view empty) {
  return causal(self, temperature, 1.0, empty);
}

Tensor causal_softmax_float(const Tensor& self, double temperature, std::string_view empty) {
  return causal(self, std::nullopt, scale_of("causal_softmax", temperature), empty);
}

}  // namespace softmax_ext::public_operator
