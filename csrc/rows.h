#pragma once
// A tensor and a dim seen as outer × length × inner: `length` is the size of the dim that is
// reduced, and each pair (outer, inner) is one row. Row r is outer index r / inner, inner index r %
// inner.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace softmax_ext {

struct Rows {
  int64_t outer;
  int64_t length;
  int64_t inner;

  int64_t count() const { return outer * inner; }

  // `dim` is in [0, rank); a 0-d tensor is one row of one element.
  static Rows of(const at::Tensor& tensor, int64_t dim) {
    Rows rows{1, tensor.dim() == 0 ? 1 : tensor.size(dim), 1};
    for (int64_t i = 0; i < dim; ++i) rows.outer *= tensor.size(i);
    for (int64_t i = dim + 1; i < tensor.dim(); ++i) rows.inner *= tensor.size(i);
    return rows;
  }
};

// Element (outer, j, inner) of a tensor lies at data[outer · outer_stride + j · length_stride +
// inner · inner_stride].
struct RowStrides {
  int64_t outer;
  int64_t length;
  int64_t inner;
};

// The one stride with which dims [begin, end) can be walked as if they were one, or nothing when
// there is none.
inline std::optional<int64_t> collapsed_stride(
    const at::Tensor& tensor, int64_t begin, int64_t end) {
  std::optional<int64_t> innermost;
  int64_t expected = 0;
  for (int64_t i = end - 1; i >= begin; --i) {
    if (tensor.size(i) == 1) continue;
    if (innermost && tensor.stride(i) != expected) return std::nullopt;
    if (!innermost) innermost = tensor.stride(i);
    expected = tensor.stride(i) * tensor.size(i);
  }
  return innermost.value_or(0);
}

// A tensor with its strides. `tensor` is the argument itself wherever its strides allow it
// (contiguous, row-strided, transposed, expanded); else a contiguous copy.
struct RowView {
  at::Tensor tensor;
  RowStrides strides;

  static RowView of(const at::Tensor& tensor, int64_t dim) {
    // An empty tensor is never read, and counts as contiguous whatever its strides: a copy would
    // keep them.
    if (tensor.dim() == 0 || tensor.numel() == 0)
      return {
          tensor, {0, 0, 0}
      };
    const auto outer = collapsed_stride(tensor, 0, dim);
    const auto inner = collapsed_stride(tensor, dim + 1, tensor.dim());
    if (!outer || !inner) return of(tensor.contiguous(), dim);
    return {
        tensor, {*outer, tensor.stride(dim), *inner}
    };
  }
};

}  // namespace softmax_ext
