#pragma once
// The arguments that public operators of logits share, as primitives take them.

#include <ATen/core/Tensor.h>

#include <cmath>
#include <optional>

#include "csrc/element_type.h"
#include "csrc/outputs.h"

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

// The input in a dtype that the primitive takes, that of the output by its code, and the temperature in the
// dtype of the arithmetic.
struct Arguments {
  at::Tensor self;
  std::optional<at::Tensor> temperature;
  std::optional<int64_t> dtype;
};

inline Arguments resolved(
    const char* op,
    const at::Tensor& self,
    std::optional<at::ScalarType> dtype,
    const std::optional<at::Tensor>& temperature) {
  Arguments arguments{self, std::nullopt, std::nullopt};
  if (dtype) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        is_element_type(*dtype),
        op,
        ": expected dtype float64, float32, bfloat16 or float16, got ",
        *dtype);
    if (!is_element_type(self.scalar_type())) arguments.self = self.to(*dtype);
    if (*dtype != arguments.self.scalar_type()) arguments.dtype = code_of_dtype(*dtype);
  }
  const auto in = arguments.self.scalar_type();
  arguments.temperature = temperature_in(op, temperature, lane_dtype(in, dtype.value_or(in)));
  return arguments;
}

}  // namespace softmax_ext::public_operator
