#include "csrc/cpu/walk_logits.h"
#include "csrc/cpu/walk_reduction.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

Tensor entropy(const Tensor& self, const optional<Tensor>& temperature, int64_t dim, double scale) {
  const Tensor result = outputs::entropy(self, temperature, dim, scale);
  if (self.numel() == 0) return result.fill_(0);
  dim = wrapped_dim("entropy", dim, self.dim());
  const Rows rows = Rows::of(self, dim);
  const RowView logits = RowView::of(self, dim);
  with_element_type(self.scalar_type(), [&]<typename In>() {
    using Lane = LaneOf<In>;
    const RowScale<Lane> scales(temperature, scale, self, dim);
    const RowValues<Lane> row_scales = scales.values();
    const std::unique_ptr<Lane[]> statistics(new Lane[2 * rows.count()]);
    Lane* const max = statistics.get();
    Lane* const log_sum = max + rows.count();
    Lane* const out = result.mutable_data_ptr<Lane>();  // at first, mean distances
    reduce_rows_by(
        *kernels().entropy,
        rows,
        input_rows<In>(logits),
        scales,
        max,
        log_sum,
        out,
        [&](int64_t first, int64_t count) {
          for (int64_t row = first; row < first + count; ++row) {
            const EntropyForward<Lane> op{{{row_scales[row]}}};
            out[row] = op.result(max[row], log_sum[row], out[row]);
          }
        });
  });
  return result;
}

Tensor entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale) {
  const Tensor grad_input = outputs::entropy_backward(grad, self, temperature, dim, scale);
  dim = wrapped_dim("entropy_backward", dim, self.dim());
  map_row_gradients<EntropyGradientRows>(grad, self, temperature, dim, scale, grad_input);
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_entropy", &softmax_ext::cpu::entropy);
  m.impl("_entropy_backward", &softmax_ext::cpu::entropy_backward);
}
