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
