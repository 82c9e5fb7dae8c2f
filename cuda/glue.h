#pragma once
// What the CUDA kernels of operators share on torch's side: tensors become a problem of
// cuda/kernels.h on the device and the current stream of their tensors.

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "csrc/losses.h"
#include "csrc/rows.h"
#include "cuda/losses.h"

namespace softmax_ext::cuda {

using at::Tensor;
using std::optional;

// One launch over the rows of `self` along `dim`. Arguments that a kernel cannot read as they are
// (another dtype, elements of a row apart) are copied, and kept alive until the launch is enqueued.
class RowsCall {
 public:
  // Kernels see these dtypes, or the type of arithmetic for both where no kernel is made for them,
  // which loses nothing.
  RowsCall(
      const Tensor& self, int64_t dim, at::ScalarType logits_dtype, at::ScalarType outputs_dtype);

  const RowsProblem& problem() const { return problem_; }
  int64_t length() const { return rows_.length; }

  void set_temperature(const optional<Tensor>& temperature, double scale);

  // Tensors of the shape of self.
  StridedRows logits(const Tensor& argument) { return input(argument, logits_dtype_); }
  StridedRows outputs(const Tensor& argument) { return input(argument, outputs_dtype_); }
  // One that broadcasts against self, of bool.
  StridedRows mask(const Tensor& argument);

  // Results of the shape of self, or with one element per row.
  void* logits_result(const Tensor& result) { return output(result, logits_dtype_); }
  void* outputs_result(const Tensor& result) { return output(result, outputs_dtype_); }

  // Arguments with one element per row, in row order.
  const void* row_outputs(const Tensor& argument);
  RowNumbers row_numbers(const Tensor& argument);
  ClassTargets targets(const Tensor& target, int64_t ignore_index);
  // Of the shape of self and in the type of arithmetic.
  StridedRows rows_of(const Tensor& argument) { return input(argument, argument.scalar_type()); }
  // `tensor` lives until the launch is enqueued.
  const Tensor& keep(Tensor tensor);
  // A copy of the logit of each row's target, as a row of which every element is that; of none where
  // the target is no class.
  StridedRows target_logits(const Tensor& logits, const Tensor& target);

  // Takes what the launch returned: raises its error, or writes the results that went through a
  // buffer.
  void finish(cudaError_t error);

 private:
  c10::cuda::CUDAGuard device_guard_;
  const Tensor& self_;
  int64_t dim_;
  Rows rows_;
  at::ScalarType logits_dtype_;
  at::ScalarType outputs_dtype_;
  RowsProblem problem_;
  std::vector<Tensor> kept_;
  std::vector<std::pair<Tensor, Tensor>> buffered_;  // a result and what the kernel writes for it

  StridedRows input(const Tensor& argument, at::ScalarType dtype);
  void* output(const Tensor& result, at::ScalarType dtype);
  static void* allocate_workspace(void* context, std::size_t bytes);
};

// The options of a loss, as kernels read them; `call` keeps what is copied for it, and takes the
// temperature.
WeightedLoss weighted_loss(RowsCall& call, const Tensor& target, const LossArguments& loss);

ElementType element_type(at::ScalarType dtype);

}  // namespace softmax_ext::cuda
