#pragma once
// The CPU walker: takes the kernels of csrc/cpu/simd over the rows of tensors, in parallel. Which
// kernels is chosen by the layout and the temperatures of the whole tensor; among rows of one choice,
// what a row yields depends on its own elements alone, whatever the batch around it and the threads:
//
//   rows     contiguous rows: a kernel's, or chunk by chunk where they are longer
//   columns  rows whose neighbours are contiguous
//   staged   any other strides and types, and temperatures at a limit: rows are copied one by one
//            to where they are contiguous and of the lanes' type

#include <ATen/Parallel.h>
#include <c10/core/impl/alloc_cpu.h>

#include <algorithm>
#include <memory>

#include "csrc/cpu/levels.h"
#include "csrc/element_type.h"
#include "csrc/numerics/row_operators.h"
#include "csrc/rows.h"

namespace softmax_ext::cpu {

using at::Tensor;
using simd::RowValues;
using std::optional;

// The elements of a row as numbers of the lanes' type, contiguous.
template <typename Lane, typename T>
void gather(const T* from, int64_t stride, int64_t count, Lane* to) {
  const auto* const elements = reinterpret_cast<const TorchElement<T>*>(from);
  for (int64_t j = 0; j < count; ++j) to[j] = static_cast<Lane>(elements[j * stride]);
}
template <typename Lane, typename T>
void scatter(const Lane* from, int64_t count, T* to, int64_t stride) {
  auto* const elements = reinterpret_cast<TorchElement<T>*>(to);
  for (int64_t j = 0; j < count; ++j) elements[j * stride] = static_cast<TorchElement<T>>(from[j]);
}

// The rows of a tensor with elements of type T, as kernels name it.
template <typename T>
struct TensorRows {
  using Element = std::remove_const_t<T>;

  T* data;
  RowOffsets offsets;
  int64_t length_stride;

  T* operator[](int64_t row) const { return data + offsets[row]; }
  // Rows from `row` on at one distance.
  int64_t run(int64_t row) const {
    return offsets.dims == 1 ? INT64_MAX : offsets.sizes[0] - row % offsets.sizes[0];
  }
  bool has_rows(int64_t length) const { return length <= 1 || length_stride == 1; }
  bool has_columns() const { return offsets.strides[0] == 1; }
  // As kernels take them: rows from `row` on, or columns, and a part of a row with has_rows().
  T* rows_from(int64_t row) const { return (*this)[row]; }
  T* columns_from(int64_t row) const { return (*this)[row]; }
  T* elements(int64_t row, int64_t offset) const { return (*this)[row] + offset; }
  template <typename Lane>
  void gather_row(int64_t row, int64_t length, Lane* to) const {
    gather((*this)[row], length_stride, length, to);
  }
};

template <typename T>
TensorRows<const KernelElement<T>> input_rows(const RowView& view) {
  return {
      reinterpret_cast<const KernelElement<T>*>(view.tensor.const_data_ptr<T>()),
      view.offsets,
      view.length_stride};
}

// Outputs are contiguous, or were looked at by row_offsets(): a view of theirs is never a copy.
template <typename T>
TensorRows<KernelElement<T>> output_rows(const Tensor& tensor, int64_t dim) {
  const RowView view = RowView::of(tensor, dim);
  TORCH_INTERNAL_ASSERT(view.tensor.is_same(tensor));
  return {
      reinterpret_cast<KernelElement<T>*>(view.tensor.mutable_data_ptr<T>()),
      view.offsets,
      view.length_stride};
}

// 1/T of each row, from a number or from a tensor that broadcasts over the rows.
template <typename Lane>
class RowScale {
 public:
  RowScale(const optional<Tensor>& temperature, double scale, const Tensor& self, int64_t dim)
      : scale_(scale), is_usual_(is_usual(scale_)) {
    if (!temperature || !temperature->defined()) return;
    auto sizes = self.sizes().vec();
    if (self.dim() > 0) sizes[dim] = 1;
    scales_ = temperature->expand(sizes).clone(at::MemoryFormat::Contiguous);
    Lane* const data = scales_.mutable_data_ptr<Lane>();
    is_usual_ = true;
    for (int64_t row = 0; row < scales_.numel(); ++row) {
      data[row] = inverse_temperature(data[row]);
      is_usual_ = is_usual_ && is_usual(data[row]);
    }
  }
  explicit RowScale(double scale) : scale_(scale), is_usual_(is_usual(scale_)) {}

  RowValues<Lane> values() const {
    return scales_.defined() ? RowValues<Lane>{scales_.const_data_ptr<Lane>(), 1}
                             : RowValues<Lane>{&scale_, 0};
  }
  // Whether no row is at a limit of the temperature, or poisoned by it (see scaled_distance).
  bool is_usual() const { return is_usual_; }
  // The factors d(x/T)/dx instead.
  void to_gradient_scales() {
    scale_ = gradient_scale(scale_);
    if (!scales_.defined()) return;
    Lane* const data = scales_.mutable_data_ptr<Lane>();
    for (int64_t row = 0; row < scales_.numel(); ++row) data[row] = gradient_scale(data[row]);
  }

 private:
  static bool is_usual(Lane scale) { return scale > 0 && scale < kInfinity<Lane>; }

  Lane scale_;
  bool is_usual_;
  Tensor scales_;
};

// Memory of this thread, kept for its next call; vectors in it cross no cache line, as torch aligns to
// 64 bytes. Where there is none, the error is torch's.
template <typename Lane, int slot = 0>
Lane* scratch(int64_t count) {
  struct Free {
    void operator()(Lane* data) const { c10::free_cpu(data); }
  };
  static thread_local std::unique_ptr<Lane[], Free> memory;
  static thread_local int64_t size = 0;
  if (size < count) {
    size = 0;
    memory.reset();  // before there is more: nobody needs both
    memory.reset(static_cast<Lane*>(c10::alloc_cpu(count * sizeof(Lane))));
    size = count;
  }
  return memory.get();
}

// Below about this many elements a second thread costs more than it brings.
inline constexpr int64_t kElementsPerThread = 8192;

// Calls body(first, end) for ranges of rows, in parallel; borders are multiples of `multiple`.
template <typename Body>
void for_each_range(const Rows& rows, int64_t multiple, Body body) {
  const int64_t length = std::max<int64_t>(rows.length, 1);
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / length / multiple);
  const int64_t parts = (rows.count() + multiple - 1) / multiple;
  at::parallel_for(0, parts, grain, [&](int64_t begin, int64_t end) {
    body(begin * multiple, std::min(end * multiple, rows.count()));
  });
}

// Calls body(row, count) for runs of rows that are at one distance in every operand.
template <typename Body, typename... Operands>
void for_each_run(int64_t begin, int64_t end, Body body, const Operands&... operands) {
  while (begin < end) {
    const int64_t count = std::min({end - begin, operands.run(begin)...});
    body(begin, count);
    begin += count;
  }
}

inline int64_t chunks_of(int64_t length) { return (length + simd::kChunk - 1) / simd::kChunk; }

// Rows longer than a chunk: begin(row, chunk, offset, count), then merge(row), then
// end(row, chunk, offset, count). Few rows are shared by threads.
template <typename Begin, typename Merge, typename End>
void for_each_long_row(const Rows& rows, Begin begin, Merge merge, End end) {
  const int64_t chunks = chunks_of(rows.length);
  const auto part = [&](auto& body, int64_t row, int64_t chunk) {
    const int64_t offset = chunk * simd::kChunk;
    body(row, chunk, offset, std::min(simd::kChunk, rows.length - offset));
  };
  if (rows.count() >= at::get_num_threads()) {
    for_each_range(rows, 1, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) part(begin, row, chunk);
        merge(row);
        for (int64_t chunk = 0; chunk < chunks; ++chunk) part(end, row, chunk);
      }
    });
    return;
  }
  const auto all = [&](auto& body) {
    at::parallel_for(0, rows.count() * chunks, 4, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) part(body, i / chunks, i % chunks);
    });
  };
  all(begin);
  for (int64_t row = 0; row < rows.count(); ++row) merge(row);
  all(end);
}

// A row at a limit of the temperature becomes one that means the same at T = 1; one with an invalid
// temperature, NaN. Returns the maximum of such a row.
template <typename Lane>
Lane apply_limit(Lane* logits, int64_t count, Lane scale) {
  if (scale > 0 && scale < kInfinity<Lane>) return 0;
  Lane max = -kInfinity<Lane>;
  for (int64_t j = 0; j < count; ++j) max = maximum(max, logits[j]);
  for (int64_t j = 0; j < count; ++j)
    logits[j] = scale == scale ? scaled_distance(logits[j], max, scale) : scale;
  return max;
}
template <typename Lane>
Lane usual_scale(Lane scale) {
  return scale > 0 && scale < kInfinity<Lane> ? scale : Lane(1);
}

}  // namespace softmax_ext::cpu
