#pragma once
// The temperature argument of public operators, as primitives take it.

#include <ATen/core/Tensor.h>

#include <cmath>
#include <optional>

namespace softmax_ext::public_operator {

// 1/T of a number T.
inline double scale_of(const char* op, double temperature) {
  TORCH_CHECK_VALUE(temperature >= 0, op, ": expected a temperature >= 0, got ", temperature);
  return 1 / std::abs(temperature);  // of −0, as of 0
}

// A tensor T in the dtype of the arithmetic.
inline std::optional<at::Tensor> temperature_in(
    const char* op, const std::optional<at::Tensor>& temperature, at::ScalarType lane) {
  if (!temperature) return std::nullopt;
  TORCH_CHECK(
      !temperature->is_complex(),
      op,
      ": expected a real temperature, got dtype ",
      temperature->scalar_type());
  return temperature->to(lane);
}

}  // namespace softmax_ext::public_operator
