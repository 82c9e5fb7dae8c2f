#pragma once
// Where the rows of a strided tensor start.

#include <cstdint>

#include "csrc/numerics/host_device.h"

namespace softmax_ext {

// Row r starts at element [r]. `sizes` and `strides` are those of the dims that number the rows,
// innermost first, with neighbours that can be walked as one taken together: rows at a constant
// distance are one dim, and cost no division.
struct RowOffsets {
  static constexpr int kMaxDims = 6;

  int dims = 1;
  int64_t sizes[kMaxDims] = {};  // that of the outermost is not needed
  int64_t strides[kMaxDims] = {};

  SOFTMAX_EXT_HOST_DEVICE int64_t operator[](int64_t row) const {
    int64_t offset = 0;
    SOFTMAX_EXT_NO_UNROLL
    for (int i = 0; i + 1 < dims; ++i) {
      offset += row % sizes[i] * strides[i];
      row /= sizes[i];
    }
    return offset + row * strides[dims - 1];
  }
};

}  // namespace softmax_ext
