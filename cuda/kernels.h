#pragma once
// The CUDA kernels as functions without torch: pointers, sizes, strides and a stream.

#include <cuda_runtime_api.h>

#include <cstdint>

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
    { ElementType::float64,  ElementType::float64},
    { ElementType::float32,  ElementType::float32},
    { ElementType::float16,  ElementType::float16},
    {ElementType::bfloat16, ElementType::bfloat16},
    { ElementType::float16,  ElementType::float32},
    {ElementType::bfloat16,  ElementType::float32},
};

constexpr bool has_kernels(TypePair types) {
  for (const TypePair& pair : kTypePairs)
    if (pair == types) return true;
  return false;
}

// Rows with consecutive elements; from row to row it is `stride` elements, 0 for one row seen many
// times.
struct StridedRows {
  const void* data;
  int64_t stride;
};

// T of row r at data[r · stride], double where a tensor is float64, else float. Without data, 1/T
// is `scale` for all rows.
struct RowTemperatures {
  const void* data;
  int64_t stride;
  double scale;
};

// Logits become outputs, [rows, length] each.
struct LogitsProblem {
  int64_t rows;
  int64_t length;
  TypePair types;
  StridedRows logits;
  void* outputs;  // contiguous
  RowTemperatures temperatures;
};

// Gradients of the outputs, with the outputs, become gradients of the logits.
struct GradientsProblem {
  int64_t rows;
  int64_t length;
  TypePair types;
  StridedRows grad_outputs;
  StridedRows outputs;
  void* grad_logits;  // contiguous
  RowTemperatures temperatures;
};

// Asynchronous, on the current device. rows and length are at least 1, and length at most
// max_length() of cuda/launch_policy.h; else, or for a pair of types without kernels,
// cudaErrorInvalidValue.
cudaError_t launch_softmax(const LogitsProblem& problem, cudaStream_t stream);
cudaError_t launch_softmax_backward(const GradientsProblem& problem, cudaStream_t stream);
cudaError_t launch_log_softmax(const LogitsProblem& problem, cudaStream_t stream);
cudaError_t launch_log_softmax_backward(const GradientsProblem& problem, cudaStream_t stream);

}  // namespace softmax_ext::cuda
