#pragma once
// Rows of logits beside rows of a mask, as kernels read both.

#include <vector>

#include "csrc/cpu/walk_rows.h"

namespace softmax_ext::cpu {

using MaskBytes = TensorRows<const uint8_t>;

// `In` is an element type of kernels.
template <typename In>
struct MaskedRows {
  using Element = simd::Masked<In>;

  MaskedRows(const TensorRows<const In>& of_logits, const MaskBytes& of_mask)
      : logits(of_logits),
        mask(of_mask),
        offsets(of_logits.offsets),
        length_stride(of_logits.length_stride) {}

  TensorRows<const In> logits;
  MaskBytes mask;
  RowOffsets offsets;
  int64_t length_stride;

  int64_t run(int64_t row) const { return std::min(logits.run(row), mask.run(row)); }
  bool has_rows(int64_t length) const { return logits.has_rows(length) && mask.has_rows(length); }
  bool has_columns() const { return logits.has_columns() && mask.has_columns(); }
  simd::MaskedPointer<In> rows_from(int64_t row) const {
    return {logits[row], mask[row], mask.offsets.strides[0]};
  }
  simd::MaskedPointer<In> columns_from(int64_t row) const {
    return {logits[row], mask[row], mask.length_stride};
  }
  simd::MaskedPointer<In> elements(int64_t row, int64_t offset) const {
    return {logits[row] + offset, mask[row] + offset, 0};
  }
  // −inf where it is left out.
  template <typename Lane>
  Lane element(int64_t row, int64_t j) const {
    const auto* const elements = reinterpret_cast<const TorchElement<In>*>(logits[row]);
    return mask[row][j * mask.length_stride] != 0 ? static_cast<Lane>(elements[j * length_stride])
                                                  : -kInfinity<Lane>;
  }
  template <typename Lane>
  void gather_row(int64_t row, int64_t length, Lane* to) const {
    logits.gather_row(row, length, to);
    const uint8_t* const bytes = mask[row];
    for (int64_t j = 0; j < length; ++j)
      to[j] = bytes[j * mask.length_stride] != 0 ? to[j] : -kInfinity<Lane>;
  }
};

// Bytes that kernels can read beside `logits`: a mask whose bytes do not lie as the logits do, those that
// broadcast along the rows or across columns among them, is copied, for as many dims as that takes.
inline RowView mask_view(const Tensor& mask, const Tensor& logits, int64_t dim) {
  const auto view_of = [&](const Tensor& bytes) {
    return RowView::of(bytes.expand(logits.sizes()), dim);
  };
  const RowView view = view_of(mask);
  const int64_t rank = logits.dim();
  if (rank == 0) return view;
  const bool are_rows = logits.stride(dim) == 1 || logits.size(dim) == 1;
  if (are_rows ? view.length_stride == 1 : view.offsets.strides[0] == 1) return view;
  auto sizes = logits.sizes().vec();
  for (int64_t i = 0; i < rank; ++i) {
    const int64_t of_mask = i - (rank - mask.dim());
    const bool is_beside = are_rows ? i == dim : i > dim;
    if (!is_beside) sizes[i] = of_mask < 0 ? 1 : mask.size(of_mask);
  }
  const Tensor bytes = mask.expand(sizes);
  if (are_rows) return view_of(bytes.movedim(dim, -1).contiguous().movedim(-1, dim));
  return view_of(bytes.contiguous());
}

// The entries that a causal mask keeps: those of the keys up to the query's own, the last query's being
// the last key. Rows are numbered along the queries.
class CausalMask {
 public:
  CausalMask(int64_t queries, int64_t keys)
      : queries_(queries), keys_(keys), bytes_(queries + keys, uint8_t{0}) {
    std::fill_n(bytes_.begin(), keys, uint8_t{1});
  }
  int64_t kept(int64_t row) const {
    return std::clamp<int64_t>(row % queries_ + 1 + keys_ - queries_, 0, keys_);
  }
  // Each query's mask is the one before, begun a byte earlier.
  MaskBytes rows() const {
    return {
        bytes_.data() + queries_ - 1, {2, {queries_, 0}, {-1, 0}},
             1
    };
  }

 private:
  int64_t queries_;
  int64_t keys_;
  std::vector<uint8_t> bytes_;
};

}  // namespace softmax_ext::cpu
