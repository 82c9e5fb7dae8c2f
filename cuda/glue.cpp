#include "cuda/glue.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/element_type.h"
#include "csrc/registration.h"

namespace softmax_ext::cuda {
namespace {

std::pair<at::ScalarType, at::ScalarType> kernel_dtypes(
    at::ScalarType logits, at::ScalarType outputs) {
  if (has_kernels({element_type(logits), element_type(outputs)})) return {logits, outputs};
  const auto lane = lane_dtype(logits, outputs);
  return {lane, lane};
}

}  // namespace

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

RowsCall::RowsCall(
    const Tensor& self, int64_t dim, at::ScalarType logits_dtype, at::ScalarType outputs_dtype)
    : device_guard_(self.device()), self_(self), dim_(dim), rows_(Rows::of(self, dim)) {
  std::tie(logits_dtype_, outputs_dtype_) = kernel_dtypes(logits_dtype, outputs_dtype);
  problem_ = {
      .outer = rows_.outer,
      .length = rows_.length,
      .inner = rows_.inner,
      .types = {element_type(logits_dtype_), element_type(outputs_dtype_)},
      .temperatures = {               {nullptr, 0},                          1.0},
      .stream = c10::cuda::getCurrentCUDAStream(),
      .allocate_workspace = &RowsCall::allocate_workspace,
      .context = this
  };
}

const Tensor& RowsCall::keep(Tensor tensor) { return kept_.emplace_back(std::move(tensor)); }

void* RowsCall::allocate_workspace(void* context, std::size_t bytes) {
  auto* const call = static_cast<RowsCall*>(context);
  const auto options = call->self_.options().dtype(at::kByte);
  return call->keep(at::empty({static_cast<int64_t>(bytes)}, options)).mutable_data_ptr();
}

void RowsCall::set_temperature(const optional<Tensor>& temperature, double scale) {
  problem_.temperatures.scale = scale;
  if (!temperature || !temperature->defined()) return;
  if (temperature->numel() == 1) {
    problem_.temperatures.numbers = {temperature->const_data_ptr(), 0};
    return;
  }
  auto sizes = self_.sizes().vec();
  sizes[dim_] = 1;
  problem_.temperatures.numbers = {
      keep(temperature->expand(sizes).contiguous()).const_data_ptr(), 1};
}

StridedRows RowsCall::input(const Tensor& argument, at::ScalarType dtype) {
  RowView view = RowView::of(argument.to(dtype), dim_);
  // Along the row, kernels want neighbours.
  if (rows_.inner == 1 && rows_.length > 1 && view.length_stride != 1)
    view = RowView::of(view.tensor.contiguous(), dim_);
  return {keep(view.tensor).const_data_ptr(), view.offsets, view.length_stride};
}

StridedRows RowsCall::mask(const Tensor& argument) {
  const RowView view = RowView::of(argument.expand(self_.sizes()), dim_);
  return {keep(view.tensor).const_data_ptr(), view.offsets, view.length_stride};
}

void* RowsCall::output(const Tensor& result, at::ScalarType dtype) {
  if (result.scalar_type() == dtype) return result.mutable_data_ptr();
  const Tensor buffer = at::empty(result.sizes(), result.options().dtype(dtype));
  buffered_.emplace_back(result, buffer);
  return buffer.mutable_data_ptr();
}

const void* RowsCall::row_outputs(const Tensor& argument) {
  return keep(argument.to(outputs_dtype_).contiguous()).const_data_ptr();
}

RowNumbers RowsCall::row_numbers(const Tensor& argument) {
  bool is_one_for_all = true;  // the gradient of a sum is expanded, and read as it is
  for (int64_t i = 0; i < argument.dim(); ++i)
    is_one_for_all = is_one_for_all && (argument.stride(i) == 0 || argument.size(i) == 1);
  const Tensor& numbers = keep(is_one_for_all ? argument : argument.contiguous());
  return {numbers.const_data_ptr(), is_one_for_all ? 0 : 1};
}

ClassTargets RowsCall::targets(const Tensor& target, int64_t ignore_index) {
  return {keep(target.to(at::kLong).contiguous()).const_data_ptr<int64_t>(), ignore_index};
}

StridedRows RowsCall::target_logits(const Tensor& logits, const Tensor& target) {
  const Tensor classes = target.to(at::kLong).clamp(0, rows_.length - 1).unsqueeze(dim_);
  const Tensor copy = keep(logits.gather(dim_, classes).to(logits_dtype_));
  return {copy.const_data_ptr(), *row_offsets(copy, dim_), 0};
}

void RowsCall::finish(cudaError_t error) {
  C10_CUDA_CHECK(error);
  for (const auto& [result, buffer] : buffered_) result.copy_(buffer);
}

}  // namespace softmax_ext::cuda

// The architectures that there is machine code for, as in SOFTMAX_EXT_ARCHS.
TORCH_LIBRARY_FRAGMENT(softmax_ext, m) {
  if (!softmax_ext::is_first_copy()) return;
  m.def("_cuda_architectures() -> str", [] { return std::string(SOFTMAX_EXT_CUDA_ARCHITECTURES); });
}
