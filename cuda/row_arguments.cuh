#pragma once
// What every mapping's kernel takes: rows in memory, and the scale of each.

#include <cstdint>

#include "csrc/numerics/elementary.h"
#include "csrc/numerics/row_offsets.h"

namespace softmax_ext::cuda {

// Element j of row r is data[offsets[r] + j · length_stride]. T is const for inputs. Mappings of
// rows to threads along the row want a length_stride of 1.
template <typename T>
struct RowPointers {
  T* data;
  RowOffsets offsets;
  int64_t length_stride;

  __device__ __forceinline__ T* operator[](int64_t row) const { return data + offsets[row]; }

  // Whether each row starts at a multiple of 16 bytes.
  bool is_aligned() const {
    bool is_aligned = reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
    for (int i = 0; i < offsets.dims; ++i)
      is_aligned = is_aligned && offsets.strides[i] * static_cast<int64_t>(sizeof(T)) % 16 == 0;
    return is_aligned;
  }
};

// Columns of a row that are kept: those before `end`, where the mask, if there is one, is not 0.
struct KeptColumns {
  const uint8_t* mask;
  int64_t mask_stride;
  int64_t end;

  __device__ __forceinline__ bool operator()(int64_t column) const {
    return column < end && (mask == nullptr || mask[column * mask_stride] != 0);
  }
};

// See Mask in cuda/kernels.h; `length` is that of rows.
template <typename T>
struct RowMask {
  RowPointers<T> kept;
  int64_t queries;
  int64_t length;

  __device__ __forceinline__ KeptColumns operator[](int64_t row) const {
    KeptColumns columns{nullptr, kept.length_stride, length};
    if (kept.data != nullptr) columns.mask = kept[row];
    if (queries != 0) {
      const int64_t end = row % queries + 1 + (length - queries);
      columns.end = end > 0 ? end : 0;
    }
    return columns;
  }
};

// A value of each row at data[r · stride]; stride 0: one for all.
template <typename T>
struct RowValues {
  T* data;
  int64_t stride;

  __device__ __forceinline__ T& operator[](int64_t row) const { return data[row * stride]; }
};

// 1/T of each row, from a number or from temperatures.
template <typename Lane>
struct RowScales {
  RowValues<const Lane> temperatures;  // null data: all rows have `scale`
  Lane scale;

  __device__ __forceinline__ Lane operator[](int64_t row) const {
    return temperatures.data ? inverse_temperature(temperatures[row]) : scale;
  }
};

}  // namespace softmax_ext::cuda
