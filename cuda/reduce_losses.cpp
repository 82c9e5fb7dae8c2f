#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <tuple>

#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

std::tuple<Tensor, Tensor> reduce_losses(
    const Tensor& losses,
    const Tensor& target,
    int64_t leading,
    bool mean,
    c10::SymInt ignore_index) {
  auto results = outputs::reduce_losses(losses, target, leading, mean, ignore_index);
  const auto& [result, count] = results;
  const int64_t groups = result.numel();
  if (groups == 0) return results;
  const c10::cuda::CUDAGuard device_guard(losses.device());
  const auto lane = lane_dtype(losses.scalar_type());
  const Tensor values = losses.to(lane).contiguous();
  const Tensor classes = target.to(at::kLong).contiguous();
  const Tensor reduced =
      result.scalar_type() == lane ? result : at::empty_like(result, result.options().dtype(lane));
  C10_CUDA_CHECK(launch_reduce_losses(
      element_type(lane),
      groups,
      values.numel() / groups,
      values.const_data_ptr(),
      {classes.const_data_ptr<int64_t>(), ignore_index.expect_int()},
      mean,
      reduced.mutable_data_ptr(),
      count.mutable_data_ptr<double>(),
      c10::cuda::getCurrentCUDAStream()));
  if (!reduced.is_same(result)) result.copy_(reduced);
  return results;
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) { m.impl("_reduce_losses", &softmax_ext::cuda::reduce_losses); }
