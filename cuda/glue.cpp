#include "cuda/glue.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/movedim.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/rows.h"
#include "cuda/launch_policy.h"

namespace softmax_ext::cuda {
namespace {

ElementType element_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::ScalarType::Double:
      return ElementType::float64;
    case at::ScalarType::Float:
      return ElementType::float32;
    case at::ScalarType::Half:
      return ElementType::float16;
    case at::ScalarType::BFloat16:
      return ElementType::bfloat16;
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked element type ", dtype);
  }
}

// The dtypes that the kernel sees: the tensors' own, or the type of arithmetic for both, which
// loses nothing.
struct KernelDtypes {
  at::ScalarType logits;
  at::ScalarType outputs;

  TypePair types() const { return {element_type(logits), element_type(outputs)}; }

  static KernelDtypes of(at::ScalarType logits, at::ScalarType outputs) {
    const KernelDtypes own{logits, outputs};
    const auto lane = lane_dtype(logits, outputs);
    return has_kernels(own.types()) ? own : KernelDtypes{lane, lane};
  }
};

Tensor with_dim_last(const Tensor& tensor, int64_t dim) {
  return dim + 1 < tensor.dim() ? at::movedim(tensor, dim, -1) : tensor;
}

// An argument as a kernel reads it: the tensor itself, or a copy where its dtype or its strides
// need one.
struct InputRows {
  Tensor tensor;
  int64_t stride;

  StridedRows pointer() const { return {tensor.const_data_ptr(), stride}; }

  static InputRows of(const Tensor& argument, int64_t dim, at::ScalarType dtype) {
    const Tensor tensor = with_dim_last(argument.to(dtype), dim);
    const int64_t last = std::max<int64_t>(tensor.dim() - 1, 0);
    RowView view = RowView::of(tensor, last);
    const bool is_dense = view.length_stride == 1 || tensor.dim() == 0 || tensor.size(last) == 1;
    if (!is_dense || view.offsets.dims > 1) view = RowView::of(tensor.contiguous(), last);
    return {view.tensor, view.offsets.strides[0]};
  }
};

// A result as a kernel writes it, rows contiguous: the tensor itself, or a buffer that is copied to
// it in the end.
class OutputRows {
 public:
  OutputRows(const Tensor& result, int64_t dim, at::ScalarType dtype)
      : result_(with_dim_last(result, dim)) {
    const bool is_direct = result_.is_contiguous() && result_.scalar_type() == dtype;
    buffer_ = is_direct ? result_ : at::empty(result_.sizes(), result_.options().dtype(dtype));
  }
  void* pointer() const { return buffer_.mutable_data_ptr(); }
  void finish() const {
    if (!buffer_.is_same(result_)) result_.copy_(buffer_);
  }

 private:
  Tensor result_;
  Tensor buffer_;
};

// The temperature of each row, from a number or from a tensor that broadcasts over the rows.
class Temperatures {
 public:
  Temperatures(const optional<Tensor>& temperature, double scale, const Tensor& self, int64_t dim)
      : scale_(scale) {
    if (!temperature || !temperature->defined()) return;
    if (temperature->numel() == 1) {
      tensor_ = *temperature;
      return;
    }
    auto sizes = self.sizes().vec();
    sizes[dim] = 1;
    tensor_ = temperature->expand(sizes).contiguous();
    stride_ = 1;
  }
  RowTemperatures pointer() const {
    return {tensor_.defined() ? tensor_.const_data_ptr() : nullptr, stride_, scale_};
  }

 private:
  double scale_;
  Tensor tensor_;
  int64_t stride_ = 0;
};

void check_length(const char* op, Pass pass, int64_t length, int64_t dim) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      length <= max_length(pass),
      op,
      " on CUDA: expected at most ",
      max_length(pass),
      " elements in dim ",
      dim,
      ", got ",
      length,
      "; longer rows are not available yet");
}

}  // namespace

void map_logits(
    const char* op,
    cudaError_t (*kernel)(const LogitsProblem&, cudaStream_t),
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& output) {
  if (output.numel() == 0) return;
  const Rows rows = Rows::of(self, dim);
  check_length(op, Pass::forward, rows.length, dim);
  const c10::cuda::CUDAGuard device_guard(self.device());
  const auto dtypes = KernelDtypes::of(self.scalar_type(), output.scalar_type());
  const auto logits = InputRows::of(self, dim, dtypes.logits);
  const OutputRows outputs(output, dim, dtypes.outputs);
  const Temperatures temperatures(temperature, scale, self, dim);
  const LogitsProblem problem{
      .rows = rows.count(),
      .length = rows.length,
      .types = dtypes.types(),
      .logits = logits.pointer(),
      .outputs = outputs.pointer(),
      .temperatures = temperatures.pointer()};
  C10_CUDA_CHECK(kernel(problem, c10::cuda::getCurrentCUDAStream()));
  outputs.finish();
}

void map_gradients(
    const char* op,
    cudaError_t (*kernel)(const GradientsProblem&, cudaStream_t),
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& grad_input) {
  if (grad_input.numel() == 0) return;
  const Rows rows = Rows::of(output, dim);
  check_length(op, Pass::backward, rows.length, dim);
  const c10::cuda::CUDAGuard device_guard(output.device());
  const auto dtypes = KernelDtypes::of(grad_input.scalar_type(), output.scalar_type());
  const auto grad_outputs = InputRows::of(grad, dim, dtypes.outputs);
  const auto outputs = InputRows::of(output, dim, dtypes.outputs);
  const OutputRows grad_logits(grad_input, dim, dtypes.logits);
  const Temperatures temperatures(temperature, scale, output, dim);
  const GradientsProblem problem{
      .rows = rows.count(),
      .length = rows.length,
      .types = dtypes.types(),
      .grad_outputs = grad_outputs.pointer(),
      .outputs = outputs.pointer(),
      .grad_logits = grad_logits.pointer(),
      .temperatures = temperatures.pointer()};
  C10_CUDA_CHECK(kernel(problem, c10::cuda::getCurrentCUDAStream()));
  grad_logits.finish();
}

void raise_not_available(const char* op) {
  C10_THROW_ERROR(NotImplementedError, c10::str(op, " is not available on CUDA yet"));
}

}  // namespace softmax_ext::cuda
