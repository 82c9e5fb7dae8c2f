#include "csrc/numerics/cross_entropy.h"

#include "csrc/cpu/walk_reduction.h"
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

template <typename T>
LaneOf<T> logit_at(const TensorRows<const KernelElement<T>>& in, int64_t row, int64_t j) {
  return static_cast<LaneOf<T>>(reinterpret_cast<const T*>(in[row])[j * in.length_stride]);
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
    Lane* const loss = std::get<0>(results).template mutable_data_ptr<Lane>();
    Lane* const max = std::get<1>(results).template mutable_data_ptr<Lane>();
    Lane* const log_sum = std::get<2>(results).template mutable_data_ptr<Lane>();
    const auto finish = [&](int64_t first, int64_t count) {
      for (int64_t row = first; row < first + count; ++row) {
        CrossEntropyRow<Lane> result{Lane(0), Lane(0), Lane(0)};
        if (classes[row] != ignore_index)
          result = cross_entropy_row(max[row], log_sum[row], logit_at<T>(in, row, classes[row]));
        loss[row] = result.loss;
        max[row] = result.max;
        log_sum[row] = result.log_sum;
      }
    };
    reduce_rows(rows, in, RowScale<Lane>(1), max, log_sum, finish);
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
    const std::unique_ptr<Lane[]> factor(new Lane[rows.count()]),
        true_class(new Lane[rows.count()]);
    const auto& table = of_type<KernelElement<T>>(*kernels().cross_entropy_backward);
    at::parallel_for(0, rows.count(), 1024, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        true_class[row] =
            classes[row] == ignore_index ? Lane(0) : logit_at<T>(in, row, classes[row]);
      table.constants(
          end - begin,
          maxima + begin,
          log_sums + begin,
          grads + begin,
          &factor[begin],
          &true_class[begin]);
    });
    // The true class, and rows that are ignored: 0, whatever their logits and their upstream
    // gradient are, NaN included.
    const auto put_others = [&](int64_t row) {
      auto* const dx = reinterpret_cast<T*>(out[row]);
      if (classes[row] == ignore_index)
        for (int64_t j = 0; j < rows.length; ++j) dx[j * out.length_stride] = T(0);
      else
        dx[classes[row] * out.length_stride] = static_cast<T>(true_class[row]);
    };
    const bool are_rows = in.has_rows(rows.length) && out.has_rows(rows.length);
    if (are_rows && rows.length > simd::kChunk) {
      for_each_long_row(
          rows,
          [&](int64_t row, int64_t, int64_t offset, int64_t count) {
            if (classes[row] != ignore_index)
              table.rows({
                  in[row] + offset,
                  0,
                  out[row] + offset,
                  0,
                  1,
                  count,
                  {maxima + row, 1},
                  {&factor[row], 1}
              });
          },
          put_others,
          [](auto...) {});
    } else if (are_rows || (in.has_columns() && out.has_columns())) {
      for_each_range(rows, are_rows ? 1 : simd::kColumns, [&](int64_t begin, int64_t end) {
        for_each_run(
            begin,
            end,
            [&](int64_t first, int64_t count) {
              (are_rows ? table.rows : table.columns)({
                  in[first],
                  are_rows ? in.offsets.strides[0] : in.length_stride,
                  out[first],
                  are_rows ? out.offsets.strides[0] : out.length_stride,
                  count,
                  rows.length,
                  {maxima + first, 1},
                  {&factor[first], 1}
              });
              for (int64_t row = first; row < first + count; ++row) put_others(row);
            },
            in,
            out);
      });
    } else {
      for_each_range(rows, 1, [&](int64_t begin, int64_t end) {
        Lane* const staged = scratch<Lane, 1>(rows.length);
        for (int64_t row = begin; row < end; ++row) {
          gather(in[row], in.length_stride, rows.length, staged);
          of_type<Lane>(*kernels().cross_entropy_backward)
              .rows({
                  staged, 0, staged, 0, 1, rows.length, {maxima + row, 1},
                        {&factor[row], 1}
          });
          scatter(staged, rows.length, out[row], out.length_stride);
          put_others(row);
        }
      });
    }
  });
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_cross_entropy", &softmax_ext::cpu::cross_entropy);
  m.impl("_cross_entropy_backward", &softmax_ext::cpu::cross_entropy_backward);
}
