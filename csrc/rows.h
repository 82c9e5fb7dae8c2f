#pragma once
// A tensor and a dim seen as outer × length × inner: `length` is the size of the dim that is
// reduced, and each pair (outer, inner) is one row. Row r is outer index r / inner, inner index
// r % inner.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "csrc/numerics/row_offsets.h"

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

// The offsets of the rows along `dim`, or nothing for a tensor of too many dims that cannot be
// taken together.
inline std::optional<RowOffsets> row_offsets(const at::Tensor& tensor, int64_t dim) {
  RowOffsets offsets;
  int dims = 0;
  for (int64_t i = tensor.dim() - 1; i >= 0; --i) {
    if (i == dim || tensor.size(i) == 1) continue;
    const bool continues =
        dims > 0 && tensor.stride(i) == offsets.strides[dims - 1] * offsets.sizes[dims - 1];
    if (continues) {
      offsets.sizes[dims - 1] *= tensor.size(i);
      continue;
    }
    if (dims == RowOffsets::kMaxDims) return std::nullopt;
    offsets.sizes[dims] = tensor.size(i);
    offsets.strides[dims] = tensor.stride(i);
    ++dims;
  }
  offsets.dims = dims > 0 ? dims : 1;
  return offsets;
}

// A tensor as rows along a dim: element j of row r is `offsets[r] + j · length_stride` from its
// data. `tensor` is the argument itself (sliced, transposed, expanded, …), or a contiguous copy
// where its strides are too many.
struct RowView {
  at::Tensor tensor;
  RowOffsets offsets;
  int64_t length_stride;

  static RowView of(const at::Tensor& tensor, int64_t dim) {
    // An empty tensor is never read, and a copy would keep its strides.
    if (tensor.dim() == 0 || tensor.numel() == 0) return {tensor, {}, 0};
    const auto offsets = row_offsets(tensor, dim);
    if (!offsets) return of(tensor.contiguous(), dim);
    return {tensor, *offsets, tensor.stride(dim)};
  }
};

}  // namespace softmax_ext
