#pragma once
// What every mapping's kernel takes: rows in memory, and the scale of each.

#include <cstdint>

#include "csrc/numerics/elementary.h"

namespace softmax_ext::cuda {

// Row r starts at data + r · stride, its elements are consecutive. T is const for inputs.
template <typename T>
struct RowPointers {
  T* data;
  int64_t stride;

  __device__ __forceinline__ T* operator[](int64_t row) const { return data + row * stride; }

  // Whether each row starts at a multiple of 16 bytes.
  bool is_aligned_for_packs() const {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
           stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
  }
};

// 1/T of each row, from a number or from temperatures.
template <typename Lane>
struct RowScales {
  const Lane* temperatures;  // row r's at temperatures[r · stride]; null: all rows have `scale`
  int64_t stride;
  Lane scale;

  __device__ __forceinline__ Lane operator[](int64_t row) const {
    return temperatures ? inverse_temperature(temperatures[row * stride]) : scale;
  }
};

}  // namespace softmax_ext::cuda
