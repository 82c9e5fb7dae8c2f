#pragma once
// The backwards of softmax and log_softmax: a gradient and an output at each column become the
// gradient of the logit there.

#include "csrc/cpu/walk_rows.h"

namespace softmax_ext::cpu {

template <typename Out, typename In, typename Lane>
void walk_contiguous(
    const simd::BackwardKernels<Out, In>& table,
    const Rows& rows,
    const TensorRows<const Out>& grad,
    const TensorRows<const Out>& output,
    const TensorRows<In>& grad_input,
    RowValues<Lane> scales) {
  const bool are_rows = grad.has_rows(rows.length) && output.has_rows(rows.length) &&
                        grad_input.has_rows(rows.length);
  if (are_rows && rows.length > simd::kChunk) {
    const int64_t chunks = chunks_of(rows.length);
    const bool are_shared = rows.count() < at::get_num_threads();
    double* const shared = scratch<double>((are_shared ? rows.count() : 1) * chunks);
    const auto sums = [&](int64_t row) {
      return are_shared ? shared + row * chunks : scratch<double>(chunks);
    };
    for_each_long_row(
        rows,
        [&](int64_t row, int64_t chunk, int64_t offset, int64_t count) {
          sums(row)[chunk] = table.summarize(grad[row] + offset, output[row] + offset, count);
        },
        [&](int64_t row) {
          double* const of_chunks = sums(row);
          for (int64_t chunk = 1; chunk < chunks; ++chunk) of_chunks[0] += of_chunks[chunk];
        },
        [&](int64_t row, int64_t, int64_t offset, int64_t count) {
          table.finish(
              grad[row] + offset,
              output[row] + offset,
              grad_input[row] + offset,
              count,
              static_cast<Lane>(sums(row)[0]),
              scales[row]);
        });
    return;
  }
  for_each_range(rows, are_rows ? 1 : simd::kColumns, [&](int64_t begin, int64_t end) {
    const auto stride = [&](const auto& operand) {
      return are_rows ? operand.offsets.strides[0] : operand.length_stride;
    };
    for_each_run(
        begin,
        end,
        [&](int64_t row, int64_t count) {
          const simd::Gradients<Out, In> gradients{
              grad[row],
              stride(grad),
              output[row],
              stride(output),
              grad_input[row],
              stride(grad_input),
              count,
              rows.length,
              scales.from(row)};
          (are_rows ? table.rows : table.columns)(gradients);
        },
        grad,
        output,
        grad_input);
  });
}

// `table` is a member of simd::Kernels.
template <typename Table>
void map_gradients(
    Table table,
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& grad_input) {
  const Rows rows = Rows::of(output, dim);
  if (rows.count() == 0 || rows.length == 0) return;
  const RowView grads = RowView::of(grad, dim);
  const RowView outputs = RowView::of(output, dim);
  with_element_type(output.scalar_type(), [&]<typename TorchOut>() {
    with_element_type(grad_input.scalar_type(), [&]<typename TorchIn>() {
      using Lane = LaneOf<TorchIn, TorchOut>;
      using Out = KernelElement<TorchOut>;
      using In = KernelElement<TorchIn>;
      RowScale<Lane> row_scales(temperature, scale, output, dim);
      row_scales.to_gradient_scales();
      const RowValues<Lane> scales = row_scales.values();
      const auto dy = input_rows<TorchOut>(grads);
      const auto y = input_rows<TorchOut>(outputs);
      const auto dx = output_rows<TorchIn>(grad_input, dim);
      if constexpr (kHasKernels<Out, In>) {
        const bool are_rows =
            dy.has_rows(rows.length) && y.has_rows(rows.length) && dx.has_rows(rows.length);
        if (are_rows || (dy.has_columns() && y.has_columns() && dx.has_columns()))
          return walk_contiguous(of_types<Out, In>(*(kernels().*table)), rows, dy, y, dx, scales);
      }
      for_each_range(rows, 1, [&](int64_t begin, int64_t end) {
        Lane* const staged_dy = scratch<Lane, 1>(rows.length);
        Lane* const staged_y = scratch<Lane, 2>(rows.length);
        for (int64_t row = begin; row < end; ++row) {
          gather(dy[row], dy.length_stride, rows.length, staged_dy);
          gather(y[row], y.length_stride, rows.length, staged_y);
          const RowOffsets one;
          walk_contiguous<Lane, Lane, Lane>(
              of_types<Lane, Lane>(*(kernels().*table)),
              {1, rows.length, 1},
              {staged_dy, one, 1},
              {staged_y, one, 1},
              {staged_dy, one, 1},
              scales.from(row));
          scatter(staged_dy, rows.length, dx[row], dx.length_stride);
        }
      });
    });
  });
}

}  // namespace softmax_ext::cpu
