#pragma once
// What the functions of outputs.h are made of. `op` and `name` are what an error calls the operator and
// the tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace softmax_ext::outputs {

using at::Tensor;
using std::optional;

// The error for an integer names dtype= where the operator has it.
void check_element_type(
    const char* op, const char* name, const Tensor& tensor, bool has_dtype = true);
void check_same_device(const char* op, const char* name, const Tensor& tensor, const Tensor& input);
// `of_what` says in the error why that shape is expected.
template <typename... OfWhat>
void check_sizes(
    const char* op,
    const char* name,
    const Tensor& tensor,
    c10::SymIntArrayRef expected,
    const OfWhat&... of_what) {
  TORCH_CHECK(
      tensor.dim() == static_cast<int64_t>(expected.size()),
      op,
      ": expected ",
      name,
      " of shape ",
      expected,
      of_what...,
      ", got ",
      tensor.sym_sizes());
  for (size_t i = 0; i < expected.size(); ++i)
    TORCH_SYM_CHECK(
        tensor.sym_size(static_cast<int64_t>(i)).sym_eq(expected[i]),
        op,
        ": expected ",
        name,
        " of shape ",
        expected,
        of_what...,
        ", got ",
        tensor.sym_sizes());
}

void check_same_sizes(const char* op, const char* name, const Tensor& tensor, const Tensor& like);

// The shape of one value per row. With keepdim the reduced dim stays, with size 1.
c10::SymDimVector row_sizes(const Tensor& self, int64_t dim, bool keepdim);
// A value for each row.
void check_row_values(
    const char* op,
    const char* name,
    const Tensor& tensor,
    const Tensor& self,
    int64_t dim,
    bool keepdim);
// One that broadcasts against `self` with size 1 in dim, in the dtype of the arithmetic.
void check_temperature(
    const char* op,
    const optional<Tensor>& temperature,
    const Tensor& self,
    int64_t dim,
    at::ScalarType lane);

// That of an output whose dtype may be asked for, by its code (csrc/element_type.h).
at::ScalarType output_dtype(const char* op, const Tensor& self, optional<int64_t> dtype);

// Contiguous, on the device of `self`.
Tensor empty_of(const Tensor& self, c10::SymIntArrayRef sizes, at::ScalarType dtype);
Tensor empty_like_sizes(const Tensor& self, at::ScalarType dtype);

}  // namespace softmax_ext::outputs
