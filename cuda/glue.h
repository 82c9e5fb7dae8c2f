#pragma once
// What the CUDA kernels of operators share on torch's side: tensors become problems of
// cuda/kernels.h on the device and the current stream of their tensors.

#include <ATen/core/Tensor.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>

#include "cuda/kernels.h"

namespace softmax_ext::cuda {

using at::Tensor;
using std::optional;

// Every element of a row of logits becomes one element of the output.
void map_logits(
    const char* op,
    cudaError_t (*kernel)(const LogitsProblem&, cudaStream_t),
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& output);

// A gradient and an output at each column become the gradient of the logit there.
void map_gradients(
    const char* op,
    cudaError_t (*kernel)(const GradientsProblem&, cudaStream_t),
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& grad_input);

[[noreturn]] void raise_not_available(const char* op);

}  // namespace softmax_ext::cuda
