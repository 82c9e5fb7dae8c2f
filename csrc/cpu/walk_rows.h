#pragma once
// The CPU walker: takes a row operator (csrc/numerics/row_operators.h) over the rows of tensors, in
// parallel over rows. A row is summarized in chunks from its start, so its result does not depend
// on the batch around it or on threads.

#include <ATen/Parallel.h>

#include <algorithm>

#include "csrc/element_type.h"
#include "csrc/numerics/row_operators.h"
#include "csrc/rows.h"

namespace softmax_ext::cpu {

using at::Tensor;
using std::optional;

// Elements summarized at once: a chunk of any operator's elements stays in the L1 cache.
inline constexpr int kChunk = 512;

// One row of a tensor: element j at data[j · stride].
template <typename T>
struct RowPointer {
  T* data;
  int64_t stride;

  T& operator[](int64_t j) const { return data[j * stride]; }
};

// The rows of a tensor with elements of type T.
template <typename T>
struct TensorRows {
  T* data;
  RowOffsets offsets;
  int64_t length_stride;

  RowPointer<T> operator[](int64_t row) const { return {data + offsets[row], length_stride}; }
};

template <typename T>
TensorRows<const T> input_rows(const RowView& view) {
  return {view.tensor.const_data_ptr<T>(), view.offsets, view.length_stride};
}

// Outputs are contiguous: a view of theirs is never a copy.
template <typename T>
TensorRows<T> output_rows(const Tensor& tensor, int64_t dim) {
  const RowView view = RowView::of(tensor, dim);
  return {view.tensor.mutable_data_ptr<T>(), view.offsets, view.length_stride};
}

// 1/T of each row, from a number or from a tensor that broadcasts over the rows.
template <typename Lane>
class RowScale {
 public:
  RowScale(const optional<Tensor>& temperature, double scale, const Tensor& self, int64_t dim)
      : scale_(scale) {
    if (!temperature || !temperature->defined()) return;
    auto sizes = self.sizes().vec();
    if (self.dim() > 0) sizes[dim] = 1;
    temperatures_ = temperature->expand(sizes).contiguous();
    data_ = temperatures_.const_data_ptr<Lane>();
  }
  Lane operator[](int64_t row) const { return data_ ? inverse_temperature(data_[row]) : scale_; }

 private:
  Lane scale_;
  Tensor temperatures_;
  const Lane* data_ = nullptr;
};

// Calls body(row) for every row.
template <typename Body>
void for_each_row(const Rows& rows, Body body) {
  // Below about this many elements a second thread costs more than it brings.
  constexpr int64_t kElementsPerThread = 8192;
  const int64_t grain =
      std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(rows.length, 1));
  at::parallel_for(0, rows.count(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

// The summary of a row whose element j is load(j).
template <typename Operator, typename Load>
typename Operator::Summary summarize_row(const Operator& op, int64_t length, Load load) {
  typename Operator::Element chunk[kChunk];
  auto summary = op.empty();
  for (int64_t begin = 0; begin < length; begin += kChunk) {
    const int count = static_cast<int>(std::min<int64_t>(kChunk, length - begin));
    for (int i = 0; i < count; ++i) chunk[i] = load(begin + i);
    const auto of_chunk = op.summarize(chunk, count);
    summary = begin == 0 ? of_chunk : op.merge(summary, of_chunk);
  }
  return summary;
}

template <typename Operator, typename T>
void map_row(const Operator& op, int64_t length, RowPointer<const T> logits, auto output) {
  using Lane = typename Operator::Output;
  using Out = std::remove_reference_t<decltype(output[0])>;
  const auto load = [&](int64_t j) { return static_cast<Lane>(logits[j]); };
  const auto constants = op.constants(summarize_row(op, length, load));
  for (int64_t j = 0; j < length; ++j) output[j] = static_cast<Out>(op.map(load(j), constants));
}

// The types of sums: wide ones keep errors independent of the row's length.
template <template <typename, typename> class Operator, typename Lane>
using WithWideTotal = Operator<Lane, double>;

// softmax and log_softmax: every element of a row of logits becomes one element of the output.
template <template <typename, typename> class Operator>
void map_logits(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& output) {
  const Rows rows = Rows::of(self, dim);
  const RowView logits = RowView::of(self, dim);
  with_element_type(self.scalar_type(), [&]<typename In>() {
    with_element_type(output.scalar_type(), [&]<typename Out>() {
      using Lane = LaneOf<In, Out>;
      const RowScale<Lane> scales(temperature, scale, self, dim);
      const auto in = input_rows<In>(logits);
      const auto out = output_rows<Out>(output, dim);
      for_each_row(rows, [&](int64_t row) {
        map_row(WithWideTotal<Operator, Lane>{scales[row]}, rows.length, in[row], out[row]);
      });
    });
  });
}

// Their backwards: a gradient and an output at each column become the gradient of the logit there.
template <template <typename, typename> class Operator>
void map_gradients(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& grad_input) {
  const Rows rows = Rows::of(output, dim);
  const RowView grads = RowView::of(grad, dim);
  const RowView outputs = RowView::of(output, dim);
  with_element_type(output.scalar_type(), [&]<typename Out>() {
    with_element_type(grad_input.scalar_type(), [&]<typename In>() {
      using Lane = LaneOf<In, Out>;
      const RowScale<Lane> scales(temperature, scale, output, dim);
      const auto grad_rows = input_rows<Out>(grads);
      const auto out_rows = input_rows<Out>(outputs);
      const auto in_rows = output_rows<In>(grad_input, dim);
      for_each_row(rows, [&](int64_t row) {
        const WithWideTotal<Operator, Lane> op{scales[row]};
        const auto dy = grad_rows[row];
        const auto y = out_rows[row];
        const auto dx = in_rows[row];
        const auto load = [&](int64_t j) {
          return GradientElement<Lane>{static_cast<Lane>(dy[j]), static_cast<Lane>(y[j])};
        };
        const Lane constant = op.constants(summarize_row(op, rows.length, load));
        for (int64_t j = 0; j < rows.length; ++j)
          dx[j] = static_cast<In>(op.map(load(j), constant));
      });
    });
  });
}

}  // namespace softmax_ext::cpu
