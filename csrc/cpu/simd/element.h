#pragma once
// The element types of kernels, without torch: bf16 and fp16 are their bits.

#include <stdint.h>

namespace softmax_ext::simd {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// What arithmetic on elements of type T is done in.
template <typename T>
struct LaneOfElement {
  using Type = float;
};
template <>
struct LaneOfElement<double> {
  using Type = double;
};
template <typename T>
using LaneOf = typename LaneOfElement<T>::Type;

}  // namespace softmax_ext::simd
