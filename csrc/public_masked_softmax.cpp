#include "csrc/arguments.h"
#include "csrc/element_type.h"
#include "csrc/primitives.h"
#include "csrc/public_operators.h"

namespace softmax_ext::public_operator {
namespace {

bool is_zero(const char* op, std::string_view empty) {
  TORCH_CHECK_VALUE(
      empty == "nan" || empty == "zero", op, ": expected empty 'nan' or 'zero', got '", empty, "'");
  return empty == "zero";
}

// One of the two masks.
Tensor masked(
    const char* op,
    const Tensor& self,
    const optional<Tensor>& mask,
    bool is_causal,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    double scale,
    std::string_view empty) {
  const auto arguments = resolved(op, self, dtype, temperature);
  return primitive::masked_softmax(
      arguments.self,
      mask,
      arguments.temperature,
      dim,
      scale,
      arguments.dtype,
      is_causal,
      is_zero(op, empty));
}

}  // namespace

Tensor masked_softmax(
    const Tensor& self,
    const Tensor& mask,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    std::string_view empty) {
  return masked("masked_softmax", self, mask, false, dim, dtype, temperature, 1, empty);
}

Tensor masked_softmax_float(
    const Tensor& self,
    const Tensor& mask,
    int64_t dim,
    optional<at::ScalarType> dtype,
    double temperature,
    std::string_view empty) {
  const char* const op = "masked_softmax";
  return masked(op, self, mask, false, dim, dtype, std::nullopt, scale_of(op, temperature), empty);
}

Tensor causal_softmax(
    const Tensor& self,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    std::string_view empty) {
  return masked("causal_softmax", self, std::nullopt, true, -1, dtype, temperature, 1, empty);
}

Tensor causal_softmax_float(
    const Tensor& self,
    optional<at::ScalarType> dtype,
    double temperature,
    std::string_view empty) {
  const char* const op = "causal_softmax";
  return masked(
      op, self, std::nullopt, true, -1, dtype, std::nullopt, scale_of(op, temperature), empty);
}

}  // namespace softmax_ext::public_operator
