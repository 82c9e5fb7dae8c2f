// Autocast on CUDA, as torch's own for these functions: half logits give float32 results. They are
// read as they are and converted in the kernel, so no float32 copy of them is ever made. On the CPU
// autocast leaves dtypes alone, as torch does; losses are float32 there by themselves. The linear layer of
// linear_cross_entropy is cast on both.
//
// On the primitives, not on the public operators: vmap takes those apart before autocast would see
// them.

#include <ATen/autocast_mode.h>

#include "csrc/element_type.h"
#include "csrc/losses.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"
#include "csrc/registration.h"

namespace softmax_ext {
namespace {

template <auto primitive>
Tensor with_float_result(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCUDA);
  if (!dtype && at::autocast::is_eligible(self, c10::DeviceType::CUDA))
    dtype = code_of_dtype(at::kFloat);
  return primitive(self, temperature, dim, scale, dtype);
}

// As a linear layer: its operands are cast, and so are the logits.
template <c10::DeviceType device, c10::DispatchKey key>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy(
    const LinearLayer& layer, const Tensor& target, const LossArguments& loss) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto dtype = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const Tensor& tensor) {
    return at::autocast::cached_cast(dtype, tensor, device);
  };
  LinearLayer cast_layer = layer;
  cast_layer.input = cast(layer.input);
  cast_layer.weight = cast(layer.weight);
  if (layer.has_bias()) cast_layer.bias = cast(*layer.bias);
  // What is in the dtype of the arithmetic has to follow, from float64 too.
  const auto lane = lane_dtype(cast_layer.input.scalar_type());
  LossArguments arguments = loss;
  if (loss.has_weight()) arguments.weight = loss.weight->to(lane);
  if (loss.has_temperature()) arguments.temperature = loss.temperature->to(lane);
  return call_linear_loss(
      primitive::linear_cross_entropy,
      cast_layer,
      has_classes(target) ? target : target.to(lane),
      arguments);
}

Tensor masked_softmax(
    const Tensor& self,
    const optional<Tensor>& mask,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype,
    bool is_causal,
    bool empty_is_zero) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCUDA);
  if (!dtype && at::autocast::is_eligible(self, c10::DeviceType::CUDA))
    dtype = code_of_dtype(at::kFloat);
  return primitive::masked_softmax(
      self, mask, temperature, dim, scale, dtype, is_causal, empty_is_zero);
}

}  // namespace
}  // namespace softmax_ext

SOFTMAX_EXT_LIBRARY_IMPL(AutocastCUDA, m) {
  namespace primitive = softmax_ext::primitive;
  m.impl("_softmax", &softmax_ext::with_float_result<primitive::softmax>);
  m.impl("_log_softmax", &softmax_ext::with_float_result<primitive::log_softmax>);
  m.impl("_logsumexp", &softmax_ext::with_float_result<primitive::logsumexp>);
  m.impl("_masked_softmax", &softmax_ext::masked_softmax);
  m.impl(
      "_linear_cross_entropy",
      &softmax_ext::linear_cross_entropy_of<softmax_ext::linear_cross_entropy<
          c10::DeviceType::CUDA,
          c10::DispatchKey::AutocastCUDA>>);
}

SOFTMAX_EXT_LIBRARY_IMPL(AutocastCPU, m) {
  m.impl(
      "_linear_cross_entropy",
      &softmax_ext::linear_cross_entropy_of<
          softmax_ext::linear_cross_entropy<c10::DeviceType::CPU, c10::DispatchKey::AutocastCPU>>);
}
