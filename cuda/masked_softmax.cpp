#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {
namespace {

Tensor masked_softmax(
    const Tensor& self,
    const optional<Tensor>& mask,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype,
    bool is_causal,
    bool empty_is_zero) {
  const Tensor output =
      outputs::masked_softmax(self, mask, temperature, dim, scale, dtype, is_causal, empty_is_zero);
  if (output.numel() == 0) return output;
  dim = wrapped_dim("masked_softmax", dim, self.dim());
  RowsCall call(self, dim, self.scalar_type(), output.scalar_type());
  call.set_temperature(temperature, scale);
  const Mask kept{
      mask ? call.mask(*mask) : StridedRows{nullptr, {}, 0},
      is_causal ? self.size(-2) : 0,
      empty_is_zero
  };
  call.finish(
      launch_masked_softmax(call.problem(), call.logits(self), kept, call.outputs_result(output)));
  return output;
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) { m.impl("_masked_softmax", &softmax_ext::cuda::masked_softmax); }
