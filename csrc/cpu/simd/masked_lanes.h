#pragma once
// Loads of masked elements: what the mask leaves out comes as −inf. To be included before the loops
// that are to know them.

#include "csrc/cpu/simd/lanes.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {

template <typename T>
SOFTMAX_EXT_INLINE MaskedPointer<T> operator+(MaskedPointer<T> from, int64_t offset) {
  return {from.elements + offset, from.mask + offset, from.mask_stride};
}
template <typename T>
SOFTMAX_EXT_INLINE MaskedPointer<T> row_at(MaskedPointer<T> first, int64_t row, int64_t stride) {
  return {first.elements + row * stride, first.mask + row * first.mask_stride, first.mask_stride};
}
template <typename T>
SOFTMAX_EXT_INLINE bool is_one_piece(MaskedPointer<T> from, int64_t stride, int64_t length) {
  return stride == length && from.mask_stride == length;
}
template <typename T>
SOFTMAX_EXT_INLINE void prefetch(MaskedPointer<T> from) {
  __builtin_prefetch(from.elements);
  __builtin_prefetch(from.mask);
}

// x, and −inf in the lanes whose byte is 0.
template <typename T, typename Bytes>
SOFTMAX_EXT_INLINE Lanes<T> kept(Lanes<T> x, Bytes bytes) {
  const Lanes<T> nothing(-kInfinity<T>);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 4) {
    const __mmask16 mask = _mm_test_epi8_mask((__m128i)bytes, (__m128i)bytes);
    return (typename Lanes<T>::Native)_mm512_mask_mov_ps(
        (__m512)nothing.native, mask, (__m512)x.native);
  }
#endif
  return select(__builtin_convertvector(bytes, typename Lanes<T>::Bits) != 0, x, nothing);
}
template <typename T>
struct ByteVector {
  using Type __attribute__((vector_size(Lanes<T>::kCount))) = uint8_t;
};

template <typename T>
SOFTMAX_EXT_INLINE Lanes<LaneOf<T>> load(MaskedPointer<T> from) {
  typename ByteVector<LaneOf<T>>::Type bytes;
  memcpy(&bytes, from.mask, sizeof bytes);
  return kept(load(from.elements), bytes);
}
template <typename T>
SOFTMAX_EXT_INLINE Lanes<LaneOf<T>> load_some(
    MaskedPointer<T> from, int count, Lanes<LaneOf<T>> padding) {
  typename ByteVector<LaneOf<T>>::Type bytes;
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const auto ones = _mm_set1_epi8(1);
  const auto some =
      _mm_mask_loadu_epi8(ones, static_cast<__mmask16>(_bzhi_u32(~0u, count)), from.mask);
  memcpy(&bytes, &some, sizeof bytes);
#else
  memset(&bytes, 1, sizeof bytes);
  memcpy(&bytes, from.mask, count);
#endif
  return kept(load_some(from.elements, count, padding), bytes);
}

template <typename T>
SOFTMAX_EXT_INLINE LanePair<T> load_pair(MaskedPointer<T> from) {
  return {load(from), load(from + Lanes<LaneOf<T>>::kCount)};
}
SOFTMAX_EXT_INLINE LanePair<BFloat16> load_pair(MaskedPointer<BFloat16> from) {
  const auto pair = load_pair(from.elements);
  HalfBits both;
  memcpy(&both, from.mask, sizeof both);
  const Lanes<float> nothing(-kInfinity<float>);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const auto kept = [&](Lanes<float> x, int16_t byte) SOFTMAX_EXT_INLINE_LAMBDA {
    const __mmask16 mask = _mm256_test_epi16_mask((__m256i)both, _mm256_set1_epi16(byte));
    return Lanes<float>(
        (Lanes<float>::Native)_mm512_mask_mov_ps((__m512)nothing.native, mask, (__m512)x.native));
  };
  return {kept(pair.first, 0xff), kept(pair.second, static_cast<int16_t>(0xff00))};
#else
  const WideBits wide = __builtin_convertvector(both, WideBits);
  return {
      select((wide & 0xff) != 0, pair.first, nothing),
      select((wide & 0xff00) != 0, pair.second, nothing)};
#endif
}
template <typename T>
SOFTMAX_EXT_INLINE void prefetch_pair(MaskedPointer<T> from) {
  constexpr int kElements = 2 * Lanes<LaneOf<T>>::kCount;
  constexpr int kLine = 64 / sizeof(T);
#pragma GCC unroll 4
  for (int i = 0; i < kElements; i += kLine) __builtin_prefetch(from.elements + i);
  __builtin_prefetch(from.mask);
}

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
