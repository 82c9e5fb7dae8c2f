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

// Elements beside a mask, a byte each: where that is 0, an element counts as −inf, whatever it is.
// For kernels another type of element, which is pointed to by MaskedPointer.
template <typename T>
struct Masked;
template <typename T>
struct LaneOfElement<Masked<T>> : LaneOfElement<T> {};

template <typename T>
struct MaskedPointer {
  const T* elements;
  const uint8_t* mask;
  int64_t mask_stride;  // from row to row, whatever that of the elements
};

template <typename T>
struct PointerTo {
  using Type = T*;
};
template <typename T>
struct PointerTo<const Masked<T>> {
  using Type = MaskedPointer<T>;
};
template <typename T>
using Pointer = typename PointerTo<T>::Type;

// The other way round.
template <typename Pointer>
struct PointedTo;
template <typename T>
struct PointedTo<const T*> {
  using Type = T;
};
template <typename T>
struct PointedTo<MaskedPointer<T>> {
  using Type = Masked<T>;
};
template <typename Pointer>
using Pointee = typename PointedTo<Pointer>::Type;

// The type that is stored.
template <typename T>
struct StoredElement {
  using Type = T;
};
template <typename T>
struct StoredElement<Masked<T>> {
  using Type = T;
};

}  // namespace softmax_ext::simd
