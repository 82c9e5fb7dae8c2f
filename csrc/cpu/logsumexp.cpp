#include "csrc/cpu/walk_rows.h"
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
      const auto in = input_rows<In>(logits);
      Out* const out = result.mutable_data_ptr<Out>();
      for_each_row(rows, [&](int64_t row) {
        const LogSumExpForward<Lane, double> op{scales[row]};
        const auto x = in[row];
        const auto summary =
            summarize_row(op, rows.length, [&](int64_t j) { return static_cast<Lane>(x[j]); });
        out[row] = static_cast<Out>(op.result(summary));
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
  const Rows rows = Rows::of(self, dim);
  const RowView logits = RowView::of(self, dim);
  const Tensor row_grads = grad.contiguous();
  with_element_type(self.scalar_type(), [&]<typename In>() {
    with_element_type(grad.scalar_type(), [&]<typename Out>() {
      using Lane = LaneOf<In, Out>;
      const RowScale<Lane> scales(temperature, scale, self, dim);
      const auto in = input_rows<In>(logits);
      const auto out = output_rows<In>(grad_input, dim);
      const Out* const grads = row_grads.const_data_ptr<Out>();
      for_each_row(rows, [&](int64_t row) {
        LogSumExpBackward<Lane, double> op{{scales[row]}, static_cast<Lane>(grads[row])};
        map_row(op, rows.length, in[row], out[row]);
      });
    });
  });
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_logsumexp", &softmax_ext::cpu::logsumexp);
  m.impl("_logsumexp_backward", &softmax_ext::cpu::logsumexp_backward);
}
