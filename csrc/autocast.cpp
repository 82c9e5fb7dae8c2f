// Autocast on CUDA, as torch's own for these functions: half logits give float32 results. They are
// read as they are and converted in the kernel, so no float32 copy of them is ever made. On the CPU
// autocast leaves dtypes alone, as torch does; losses are float32 there by themselves.
//
// On the primitives, not on the public operators: vmap takes those apart before autocast would see
// them.

#include <ATen/autocast_mode.h>

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

}  // namespace
}  // namespace softmax_ext

SOFTMAX_EXT_LIBRARY_IMPL(AutocastCUDA, m) {
  namespace primitive = softmax_ext::primitive;
  m.impl("_softmax", &softmax_ext::with_float_result<primitive::softmax>);
  m.impl("_log_softmax", &softmax_ext::with_float_result<primitive::log_softmax>);
  m.impl("_logsumexp", &softmax_ext::with_float_result<primitive::logsumexp>);
}
