#include "csrc/cpu/walk_logits.h"
#include "csrc/cpu/walk_reduction.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

Tensor logsumexp(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype) {
  const Tensor result = outputs::logsumexp(self, temperature, dim, scale, dtype);
  dim = wrapped_dim("logsumexp", dim, self.dim());
  const Rows rows = Rows::of(self, dim);
  const RowView logits = RowView::of(self, dim);
  with_element_type(self.scalar_type(), [&]<typename In>() {
    with_element_type(result.scalar_type(), [&]<typename Out>() {
      using Lane = LaneOf<In, Out>;
      const RowScale<Lane> scales(temperature, scale, self, dim);
      const RowValues<Lane> row_scales = scales.values();
      const std::unique_ptr<Lane[]> max(new Lane[rows.count()]), log_sum(new Lane[rows.count()]);
      Out* const out = result.mutable_data_ptr<Out>();
      reduce_rows(
          rows,
          input_rows<In>(logits),
          scales,
          max.get(),
          log_sum.get(),
          [&](int64_t first, int64_t count) {
            for (int64_t row = first; row < first + count; ++row) {
              const LogSumExpForward<Lane> op{{row_scales[row]}};
              out[row] = static_cast<Out>(op.result(max[row], log_sum[row]));
            }
          });
    });
  });
  return result;
}

Tensor logsumexp_backward(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale) {
  const Tensor grad_input = outputs::logsumexp_backward(grad, self, temperature, dim, scale);
  dim = wrapped_dim("logsumexp_backward", dim, self.dim());
  map_row_gradients<LogSumExpGradientRows>(grad, self, temperature, dim, scale, grad_input);
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_logsumexp", &softmax_ext::cpu::logsumexp);
  m.impl("_logsumexp_backward", &softmax_ext::cpu::logsumexp_backward);
}
