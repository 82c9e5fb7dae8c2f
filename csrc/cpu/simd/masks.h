#pragma once
// Conditions of lanes, as what the instruction set compares to.

#include "csrc/cpu/simd/lanes.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {

template <typename T>
struct Mask {
#if defined(__AVX512F__)
  __mmask16 native;
#else
  typename Lanes<T>::Bits native;
#endif

  friend SOFTMAX_EXT_INLINE Mask operator|(Mask a, Mask b) {
#if defined(__AVX512F__)
    return {static_cast<__mmask16>(a.native | b.native)};
#else
    return {a.native | b.native};
#endif
  }
  // a and not b
  friend SOFTMAX_EXT_INLINE Mask without(Mask a, Mask b) {
#if defined(__AVX512F__)
    return {static_cast<__mmask16>(a.native & ~b.native)};
#else
    return {a.native & ~b.native};
#endif
  }
};

#if defined(__AVX512F__)
template <int predicate, typename T>
SOFTMAX_EXT_INLINE Mask<T> compared(Lanes<T> a, Lanes<T> b) {
  if constexpr (sizeof(T) == 4)
    return {_mm512_cmp_ps_mask((__m512)a.native, (__m512)b.native, predicate)};
  else
    return {_mm512_cmp_pd_mask((__m512d)a.native, (__m512d)b.native, predicate)};
}
#endif

// a < b
template <typename T>
SOFTMAX_EXT_INLINE Mask<T> less(Lanes<T> a, Lanes<T> b) {
#if defined(__AVX512F__)
  return compared<_CMP_LT_OQ>(a, b);
#else
  return {a.native < b.native};
#endif
}
// a ≥ b
template <typename T>
SOFTMAX_EXT_INLINE Mask<T> not_less(Lanes<T> a, Lanes<T> b) {
#if defined(__AVX512F__)
  return compared<_CMP_GE_OQ>(a, b);
#else
  return {a.native >= b.native};
#endif
}
template <typename T>
SOFTMAX_EXT_INLINE Mask<T> is_nan(Lanes<T> x) {
#if defined(__AVX512F__)
  return compared<_CMP_UNORD_Q>(x, x);
#else
  return {x.native != x.native};
#endif
}

// A bit for each lane, the first lowest.
template <typename T>
SOFTMAX_EXT_INLINE uint32_t bits_of(Mask<T> mask) {
#if defined(__AVX512F__)
  return mask.native;
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask.native));
  else
    return static_cast<uint32_t>(_mm256_movemask_pd((__m256d)mask.native));
#else
  uint32_t bits = 0;
  for (int i = 0; i < Lanes<T>::kCount; ++i) bits |= (mask.native[i] != 0 ? 1u : 0u) << i;
  return bits;
#endif
}
template <typename T>
SOFTMAX_EXT_INLINE bool is_any(Mask<T> mask) {
#if defined(__AVX2__)
  return bits_of(mask) != 0;
#else
  bool is_set = false;
  for (int i = 0; i < Lanes<T>::kCount; ++i) is_set |= mask.native[i] != 0;
  return is_set;
#endif
}

// a, and b in the other lanes.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> chosen(Mask<T> mask, Lanes<T> a, Lanes<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (typename Lanes<T>::Native)_mm512_mask_mov_ps(
        (__m512)b.native, mask.native, (__m512)a.native);
  else
    return (typename Lanes<T>::Native)_mm512_mask_mov_pd(
        (__m512d)b.native, static_cast<__mmask8>(mask.native), (__m512d)a.native);
#else
  return select(mask.native, a, b);
#endif
}
// x, and 0 in the other lanes.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> only(Mask<T> mask, Lanes<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (typename Lanes<T>::Native)_mm512_maskz_mov_ps(mask.native, (__m512)x.native);
  else
    return (typename Lanes<T>::Native)_mm512_maskz_mov_pd(
        static_cast<__mmask8>(mask.native), (__m512d)x.native);
#else
  return (typename Lanes<T>::Native)((typename Lanes<T>::Bits)x.native & mask.native);
#endif
}

// The lanes of the mask one after another; up to a whole vector is written. Returns their number.
template <typename T>
SOFTMAX_EXT_INLINE int store_only(T* to, Mask<T> mask, Lanes<T> x) {
  uint32_t bits = bits_of(mask);
#if defined(__AVX512F__)
  // In a register first: to memory it is slow on some processors.
  if constexpr (sizeof(T) == 4)
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask.native, (__m512)x.native));
  else
    _mm512_storeu_pd(
        to, _mm512_maskz_compress_pd(static_cast<__mmask8>(mask.native), (__m512d)x.native));
  return __builtin_popcount(bits);
#else
  int count = 0;
  for (; bits != 0; bits &= bits - 1) to[count++] = x[__builtin_ctz(bits)];
  return count;
#endif
}

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
