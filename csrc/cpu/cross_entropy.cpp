#include "csrc/numerics/cross_entropy.h"

#include "csrc/cpu/walk_rows.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

// Before anything is computed: every target is a class or ignore_index.
void check_targets(const Tensor& targets, const Rows& rows, int64_t ignore_index) {
  const int64_t* const target = targets.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows.count(); ++row) {
    if ((0 <= target[row] && target[row] < rows.length) || target[row] == ignore_index) continue;
    TORCH_CHECK_INDEX(
        false,
        "cross_entropy: expected targets in [0, ",
        rows.length,
        ") or ignore_index ",
        ignore_index,
        ", got ",
        target[row],
        " at position ",
        row,
        " of the target of shape ",
        targets.sizes());
  }
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt symbolic_ignore_index) {
  auto results = outputs::cross_entropy(self, target, dim, symbolic_ignore_index);
  const int64_t ignore_index = symbolic_ignore_index.expect_int();
  dim = wrapped_dim("cross_entropy", dim, self.dim());
  const Rows rows = Rows::of(self, dim);
  const RowView logits = RowView::of(self, dim);
  const Tensor targets = target.to(at::kLong).contiguous();
  check_targets(targets, rows, ignore_index);
  with_element_type(self.scalar_type(), [&]<typename T>() {
    using Lane = LaneOf<T>;
    const auto in = input_rows<T>(logits);
    const int64_t* const classes = targets.const_data_ptr<int64_t>();
    Lane* const loss = std::get<0>(results).mutable_data_ptr<Lane>();
    Lane* const max = std::get<1>(results).mutable_data_ptr<Lane>();
    Lane* const log_sum = std::get<2>(results).mutable_data_ptr<Lane>();
    const OverLogits<Lane, double> op{Lane(1)};
    for_each_row(rows, [&](int64_t row) {
      CrossEntropyRow<Lane> result{Lane(0), Lane(0), Lane(0)};
      if (classes[row] != ignore_index) {
        const auto x = in[row];
        const auto summary =
            summarize_row(op, rows.length, [&](int64_t j) { return static_cast<Lane>(x[j]); });
        result = cross_entropy_row(summary, static_cast<Lane>(x[classes[row]]));
      }
      loss[row] = result.loss;
      max[row] = result.max;
      log_sum[row] = result.log_sum;
    });
  });
  return results;
}

Tensor cross_entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& max,
    const Tensor& log_sum,
    int64_t dim,
    c10::SymInt symbolic_ignore_index) {
  const Tensor grad_input =
      outputs::cross_entropy_backward(grad, self, target, max, log_sum, dim, symbolic_ignore_index);
  const int64_t ignore_index = symbolic_ignore_index.expect_int();
  dim = wrapped_dim("cross_entropy_backward", dim, self.dim());
  const Rows rows = Rows::of(self, dim);
  const RowView logits = RowView::of(self, dim);
  const Tensor targets = target.to(at::kLong).contiguous();
  check_targets(targets, rows, ignore_index);
  const Tensor row_grads = grad.contiguous();
  const Tensor row_max = max.contiguous();
  const Tensor row_log_sum = log_sum.contiguous();
  with_element_type(self.scalar_type(), [&]<typename T>() {
    using Lane = LaneOf<T>;
    const auto in = input_rows<T>(logits);
    const auto out = output_rows<T>(grad_input, dim);
    const int64_t* const classes = targets.const_data_ptr<int64_t>();
    const Lane* const grads = row_grads.const_data_ptr<Lane>();
    const Lane* const maxima = row_max.const_data_ptr<Lane>();
    const Lane* const log_sums = row_log_sum.const_data_ptr<Lane>();
    for_each_row(rows, [&](int64_t row) {
      const auto x = in[row];
      const auto dx = out[row];
      const int64_t true_class = classes[row];
      if (true_class ==
          ignore_index) {  // whatever its logits and its upstream gradient are, NaN included
        for (int64_t j = 0; j < rows.length; ++j) dx[j] = T(0);
        return;
      }
      const auto gradient = cross_entropy_gradient(
          maxima[row], log_sums[row], grads[row], static_cast<Lane>(x[true_class]));
      for (int64_t j = 0; j < rows.length; ++j)
        dx[j] = static_cast<T>(gradient.other_class(static_cast<Lane>(x[j])));
      dx[true_class] = static_cast<T>(gradient.true_class);
    });
  });
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_cross_entropy", &softmax_ext::cpu::cross_entropy);
  m.impl("_cross_entropy_backward", &softmax_ext::cpu::cross_entropy_backward);
}
