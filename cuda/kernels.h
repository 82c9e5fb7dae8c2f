#pragma once
// The CUDA kernels as functions without torch: pointers, sizes, strides and a stream.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "csrc/numerics/row_offsets.h"

namespace softmax_ext::cuda {

enum class ElementType { float64, float32, float16, bfloat16 };

struct TypePair {
  ElementType logits;
  ElementType outputs;

  constexpr bool operator==(const TypePair&) const = default;
};

// The pairs that kernels exist for. Any other pair goes through a conversion of whole tensors by
// the caller.
inline constexpr TypePair kTypePairs[] = {
    { ElementType::float32,  ElementType::float32},
    {ElementType::bfloat16, ElementType::bfloat16},
#ifndef SOFTMAX_EXT_TWO_TYPES  // what tests of kernels call, in half of the time to compile
    { ElementType::float64,  ElementType::float64},
    { ElementType::float16,  ElementType::float16},
    { ElementType::float16,  ElementType::float32},
    {ElementType::bfloat16,  ElementType::float32},
#endif
};

constexpr bool has_kernels(TypePair types) {
  for (const TypePair& pair : kTypePairs)
    if (pair == types) return true;
  return false;
}

// A tensor seen as rows: element j of row r is `offsets[r] + j · length_stride` elements from data.
struct StridedRows {
  const void* data;
  RowOffsets offsets;
  int64_t length_stride;
};

// A number of each row at data[r · stride], in the type of arithmetic: double where a tensor is
// float64, else float.
struct RowNumbers {
  const void* data;
  int64_t stride;  // 0: one number for all rows
};

// T of each row. Without data, 1/T is `scale` for all rows.
struct RowTemperatures {
  RowNumbers numbers;
  double scale;
};

// What every launch takes. Rows are outer × inner, and row r = outer index · inner + inner index.
// Outputs with an element per logit are contiguous as [outer, length, inner].
//
// Where inner is 1 the elements of a row are neighbours in every tensor (length_stride 1), else
// they are not.
struct RowsProblem {
  int64_t outer;
  int64_t length;
  int64_t inner;
  TypePair types;
  RowTemperatures temperatures;
  cudaStream_t stream;
  // Device memory for intermediate results, used for few long rows only: a number of bytes per tile
  // of 64 KiB of a row. It may be used again by later work on the stream.
  void* (*allocate_workspace)(void* context, std::size_t bytes);
  void* context;
};

// Asynchronous, on the current device. outer, length and inner are at least 1. A pair of types
// without kernels is cudaErrorInvalidValue.

// Logits become outputs.
cudaError_t launch_softmax(const RowsProblem&, const StridedRows& logits, void* outputs);
cudaError_t launch_log_softmax(const RowsProblem&, const StridedRows& logits, void* outputs);

// Gradients of the outputs, with the outputs, become gradients of the logits.
cudaError_t launch_softmax_backward(
    const RowsProblem&,
    const StridedRows& grad_outputs,
    const StridedRows& outputs,
    void* grad_logits);
cudaError_t launch_log_softmax_backward(
    const RowsProblem&,
    const StridedRows& grad_outputs,
    const StridedRows& outputs,
    void* grad_logits);

// One result per row, in the type of outputs.
cudaError_t launch_logsumexp(const RowsProblem&, const StridedRows& logits, void* results);
// grads: one per row, in the type of outputs.
cudaError_t launch_logsumexp_backward(
    const RowsProblem&, const StridedRows& logits, const void* grads, void* grad_logits);

// One result per row, in the type of arithmetic, as their gradients `grads` are. Both types of the
// problem are that of the logits.
cudaError_t launch_entropy(const RowsProblem&, const StridedRows& logits, void* results);
cudaError_t launch_entropy_backward(
    const RowsProblem&, const StridedRows& logits, const RowNumbers& grads, void* grad_logits);

// Which logits are kept: where `kept`, of bool, is not 0, with any stride along the row; without data,
// all. And of rows in groups of `queries`, if that is not 0, those up to the row's own place, the
// last row's being the last column.
struct Mask {
  StridedRows kept;
  int64_t queries;
  bool empty_is_zero;  // a row without any logit above −inf; else NaN
};
cudaError_t launch_masked_softmax(
    const RowsProblem&, const StridedRows& logits, const Mask& mask, void* outputs);

}  // namespace softmax_ext::cuda
