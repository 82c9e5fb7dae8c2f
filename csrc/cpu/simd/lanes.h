#pragma once
// Vectors of lanes, by the compiler's vector types and the few intrinsics those leave out. This
// header, and all that includes it, is compiled once per instruction set: everything is in the
// namespace of that one and always inlined, so that objects of two levels never share a function.

#include <stdint.h>
#include <string.h>

#include "csrc/cpu/simd/element.h"
#include "csrc/numerics/elementary.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define SOFTMAX_EXT_INLINE inline __attribute__((always_inline))
#define SOFTMAX_EXT_INLINE_LAMBDA __attribute__((always_inline))

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <typename Scalar>
struct NativeTypes;
template <>
struct NativeTypes<float> {
  using Values __attribute__((vector_size(kVectorBytes))) = float;
  using Bits __attribute__((vector_size(kVectorBytes))) = int32_t;
  using Words __attribute__((vector_size(kVectorBytes))) = uint32_t;
};
template <>
struct NativeTypes<double> {
  using Values __attribute__((vector_size(kVectorBytes))) = double;
  using Bits __attribute__((vector_size(kVectorBytes))) = int64_t;
  using Words __attribute__((vector_size(kVectorBytes))) = uint64_t;
};

// body(Index<0>()), …, body(Index<count − 1>()): a loop that is never one, so that arrays stay in
// registers.
template <int i>
struct Index {
  static constexpr int value = i;
  constexpr operator int() const { return i; }
};
template <int count, int i = 0, typename Body>
SOFTMAX_EXT_INLINE void unrolled(Body body) {
  if constexpr (i < count) {
    body(Index<i>());
    unrolled<count, i + 1>(body);
  }
}

// As many numbers as a vector holds. Comparisons yield all bits set or none; see select().
template <typename T>
struct Lanes {
  using Scalar = T;
  using Native = typename NativeTypes<T>::Values;
  using Bits = typename NativeTypes<T>::Bits;
  // Bits to calculate with: sums of those of NaN would overflow.
  using Words = typename NativeTypes<T>::Words;
  static constexpr int kCount = kVectorBytes / sizeof(T);

  Native native;

  Lanes() = default;
  SOFTMAX_EXT_INLINE Lanes(T value) : native(value - Native{}) {}
  SOFTMAX_EXT_INLINE Lanes(Native value) : native(value) {}

  SOFTMAX_EXT_INLINE T operator[](int i) const { return native[i]; }
  SOFTMAX_EXT_INLINE Lanes operator-() const { return -native; }
  SOFTMAX_EXT_INLINE Lanes& operator+=(Lanes b) { return *this = Lanes(native + b.native); }

  friend SOFTMAX_EXT_INLINE Lanes operator+(Lanes a, Lanes b) { return a.native + b.native; }
  friend SOFTMAX_EXT_INLINE Lanes operator-(Lanes a, Lanes b) { return a.native - b.native; }
  friend SOFTMAX_EXT_INLINE Lanes operator*(Lanes a, Lanes b) { return a.native * b.native; }
  friend SOFTMAX_EXT_INLINE Lanes operator/(Lanes a, Lanes b) { return a.native / b.native; }
  friend SOFTMAX_EXT_INLINE Bits operator==(Lanes a, Lanes b) { return a.native == b.native; }
  friend SOFTMAX_EXT_INLINE Bits operator!=(Lanes a, Lanes b) { return a.native != b.native; }
  friend SOFTMAX_EXT_INLINE Bits operator<(Lanes a, Lanes b) { return a.native < b.native; }
  friend SOFTMAX_EXT_INLINE Bits operator>(Lanes a, Lanes b) { return a.native > b.native; }
};

// For each lane the first or the second, by the bits of a comparison.
template <typename Bits, typename T>
SOFTMAX_EXT_INLINE Lanes<T> select(Bits condition, Lanes<T> a, Lanes<T> b) {
  return condition ? a.native : b.native;
}

// Any NaN as kNaN, whose lower bits are 0.
SOFTMAX_EXT_INLINE float quieted(float x) { return x == x ? x : kNaN<float>; }
SOFTMAX_EXT_INLINE double quieted(double x) { return x; }
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> quieted(Lanes<T> x) {
  return select(x == x, x, Lanes<T>(kNaN<T>));
}

// a · b + c, in one rounding where the instruction set can.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> multiply_add(Lanes<T> a, Lanes<T> b, Lanes<T> c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (typename Lanes<T>::Native)_mm512_fmadd_ps(
        (__m512)a.native, (__m512)b.native, (__m512)c.native);
  else
    return (typename Lanes<T>::Native)_mm512_fmadd_pd(
        (__m512d)a.native, (__m512d)b.native, (__m512d)c.native);
#elif defined(__FMA__)
  if constexpr (sizeof(T) == 4)
    return (typename Lanes<T>::Native)_mm256_fmadd_ps(
        (__m256)a.native, (__m256)b.native, (__m256)c.native);
  else
    return (typename Lanes<T>::Native)_mm256_fmadd_pd(
        (__m256d)a.native, (__m256d)b.native, (__m256d)c.native);
#else
  return a * b + c;
#endif
}

// The larger one: b where either is NaN, as the instruction does.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> larger(Lanes<T> a, Lanes<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (typename Lanes<T>::Native)_mm512_max_ps((__m512)a.native, (__m512)b.native);
  else
    return (typename Lanes<T>::Native)_mm512_max_pd((__m512d)a.native, (__m512d)b.native);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return (typename Lanes<T>::Native)_mm256_max_ps((__m256)a.native, (__m256)b.native);
  else
    return (typename Lanes<T>::Native)_mm256_max_pd((__m256d)a.native, (__m256d)b.native);
#else
  return select(a > b, a, b);
#endif
}
// The smaller one: b where either is NaN.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> smaller(Lanes<T> a, Lanes<T> b) {
  return -larger(-a, -b);
}

// sum += x in the lanes where a = b, or where it is not.
template <typename T>
SOFTMAX_EXT_INLINE void add_if_equal(Lanes<T>& sum, Lanes<T> x, Lanes<T> a, Lanes<T> b) {
  const Lanes<T> total = sum + x;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    sum = (typename Lanes<T>::Native)_mm512_mask_mov_ps(
        (__m512)sum.native,
        _mm512_cmp_ps_mask((__m512)a.native, (__m512)b.native, _CMP_EQ_OQ),
        (__m512)total.native);
  else
#endif
    sum = select(a == b, total, sum);
}
template <typename T>
SOFTMAX_EXT_INLINE void add_unless_equal(Lanes<T>& sum, Lanes<T> x, Lanes<T> a, Lanes<T> b) {
  const Lanes<T> total = sum + x;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    sum = (typename Lanes<T>::Native)_mm512_mask_mov_ps(
        (__m512)total.native,
        _mm512_cmp_ps_mask((__m512)a.native, (__m512)b.native, _CMP_EQ_OQ),
        (__m512)sum.native);
  else
#endif
    sum = select(a == b, sum, total);
}

// x · 2^exponent for integral exponents of normal numbers. `shifted` is the exponent plus 1.5 ·
// 2^(digits of T − 2), as the rounding of exp leaves it.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<T> times_power_of_2(Lanes<T> x, Lanes<T> exponent, Lanes<T> shifted) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (typename Lanes<T>::Native)_mm512_scalef_ps((__m512)x.native, (__m512)exponent.native);
  else
    return (typename Lanes<T>::Native)_mm512_scalef_pd((__m512d)x.native, (__m512d)exponent.native);
#else
  using Words = typename Lanes<T>::Words;
  // The low bits of `shifted` are the exponent's: they become those of a number, and its bias.
  constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
  const Words power = ((Words)shifted.native << kMantissa) + (Words)Lanes<T>(T(1)).native;
  return x * Lanes<T>((typename Lanes<T>::Native)power);
#endif
}

// --- 16-bit elements are widened when loaded and rounded once, to nearest even, when stored.

using HalfBits __attribute__((vector_size(kVectorBytes / 2))) = uint16_t;
using WideBits __attribute__((vector_size(kVectorBytes))) = uint32_t;

SOFTMAX_EXT_INLINE Lanes<float> widen(HalfBits bits, BFloat16) {
  return (Lanes<float>::Native)(__builtin_convertvector(bits, WideBits) << 16);
}
// The rounded number is in the upper half of the bits. A NaN must have zeros in the lower half, or
// else could be rounded to another number: those of elements do, and so does kNaN (see `quieted`).
SOFTMAX_EXT_INLINE WideBits rounded_to_bfloat16(Lanes<float> x) {
  const WideBits bits = (WideBits)x.native;
  return bits + ((bits >> 16) & 1) + 0x7fff;
}
SOFTMAX_EXT_INLINE HalfBits narrow(Lanes<float> x, BFloat16) {
  return __builtin_convertvector(rounded_to_bfloat16(x) >> 16, HalfBits);
}

SOFTMAX_EXT_INLINE Lanes<float> widen(HalfBits bits, Float16) {
#if defined(__AVX512F__)
  return (Lanes<float>::Native)_mm512_cvtph_ps((__m256i)bits);
#elif defined(__F16C__)
  return (Lanes<float>::Native)_mm256_cvtph_ps((__m128i)bits);
#else
  // The exponent is moved by a product, which also normalizes what is subnormal.
  const WideBits wide = __builtin_convertvector(bits, WideBits);
  const WideBits magnitude = (wide & 0x7fff) << 13;
  const Lanes<float> value = Lanes<float>((Lanes<float>::Native)magnitude) * Lanes<float>(0x1p112f);
  const WideBits special = (WideBits)(magnitude >= (0x7c00u << 13)) & 0x7f800000;
  return (Lanes<float>::Native)((WideBits)value.native | special | ((wide & 0x8000) << 16));
#endif
}
SOFTMAX_EXT_INLINE HalfBits narrow(Lanes<float> x, Float16) {
#if defined(__AVX512F__)
  return (HalfBits)_mm512_cvtps_ph((__m512)x.native, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  return (HalfBits)_mm256_cvtps_ph((__m256)x.native, _MM_FROUND_TO_NEAREST_INT);
#else
  const WideBits bits = (WideBits)x.native;
  const WideBits sign = bits & 0x80000000u;
  const WideBits magnitude = bits ^ sign;
  // Rounds as bf16 above, 13 bits up, with the exponent moved; below 2^−14 an addition does it.
  const WideBits normal = magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1);
  const Lanes<float> shifted = Lanes<float>((Lanes<float>::Native)magnitude) + Lanes<float>(0.5f);
  const WideBits subnormal = ((WideBits)shifted.native - 0x3f000000u) << 13;
  WideBits result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? WideBits{} + (0x7c00u << 13) : result;  // to infinity
  result = magnitude > 0x7f800000u ? WideBits{} + (0x7e00u << 13) : result;   // NaN
  return __builtin_convertvector((result >> 13) | (sign >> 16), HalfBits);
#endif
}

// The native vector of elements of type T that fills Lanes<LaneOf<T>>.
template <typename T>
struct Stored {
  using Vector = HalfBits;
};
template <>
struct Stored<float> {
  using Vector = Lanes<float>::Native;
};
template <>
struct Stored<double> {
  using Vector = Lanes<double>::Native;
};

template <typename T>
SOFTMAX_EXT_INLINE Lanes<LaneOf<T>> widened(typename Stored<T>::Vector vector) {
  if constexpr (sizeof(T) == 2)
    return widen(vector, T());
  else
    return vector;
}
template <typename T>
SOFTMAX_EXT_INLINE typename Stored<T>::Vector narrowed(Lanes<LaneOf<T>> lanes) {
  if constexpr (sizeof(T) == 2)
    return narrow(lanes, T());
  else
    return lanes.native;
}

template <typename T>
SOFTMAX_EXT_INLINE Lanes<LaneOf<T>> load(const T* from) {
  typename Stored<T>::Vector vector;
  memcpy(&vector, from, sizeof vector);
  return widened<T>(vector);
}
template <typename T>
SOFTMAX_EXT_INLINE void store(T* to, Lanes<LaneOf<T>> lanes) {
  const auto vector = narrowed<T>(lanes);
  memcpy(to, &vector, sizeof vector);
}

// Row `row` of those that are `stride` apart, and whether they are one piece of memory.
template <typename T>
SOFTMAX_EXT_INLINE T* row_at(T* first, int64_t row, int64_t stride) {
  return first + row * stride;
}
template <typename T>
SOFTMAX_EXT_INLINE bool is_one_piece(const T*, int64_t stride, int64_t length) {
  return stride == length;
}
template <typename T>
SOFTMAX_EXT_INLINE void prefetch(const T* from) {
  __builtin_prefetch(from);
}

// Two vectors of adjacent elements at a time, in an order that is the element type's own: bf16 come as
// those of even and of odd index, without a shuffle. For what is done to each lane alone.
template <typename T>
struct LanePair {
  Lanes<LaneOf<T>> first;
  Lanes<LaneOf<T>> second;
};
template <typename T>
SOFTMAX_EXT_INLINE LanePair<T> load_pair(const T* from) {
  constexpr int kCount = Lanes<LaneOf<T>>::kCount;
  return {load(from), load(from + kCount)};
}
SOFTMAX_EXT_INLINE LanePair<BFloat16> load_pair(const BFloat16* from) {
  WideBits both;
  memcpy(&both, from, sizeof both);
  return {(Lanes<float>::Native)(both << 16), (Lanes<float>::Native)(both & 0xffff0000u)};
}
template <typename T>
SOFTMAX_EXT_INLINE void store_pair(T* to, LanePair<T> pair) {
  constexpr int kCount = Lanes<LaneOf<T>>::kCount;
  store(to, pair.first);
  store(to + kCount, pair.second);
}
SOFTMAX_EXT_INLINE void store_pair(BFloat16* to, LanePair<BFloat16> pair) {
  const WideBits both =
      rounded_to_bfloat16(pair.first) >> 16 | (rounded_to_bfloat16(pair.second) & 0xffff0000u);
  memcpy(to, &both, sizeof both);
}
// Whether the two come in one order, so that what was made of one type can be stored as the other.
template <typename T>
inline constexpr bool kComesEvenAndOdd = __is_same(typename StoredElement<T>::Type, BFloat16);
template <typename A, typename B>
inline constexpr bool kPairsAlike = kComesEvenAndOdd<A> == kComesEvenAndOdd<B>;

template <typename T>
SOFTMAX_EXT_INLINE void copy_element(void* to, int to_index, const void* from, int from_index) {
  memcpy(
      static_cast<char*>(to) + to_index * sizeof(T),
      static_cast<const char*>(from) + from_index * sizeof(T),
      sizeof(T));
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// All bits of the first `count` lanes of 32 bits.
SOFTMAX_EXT_INLINE __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

// The first `count` lanes, from 1 to all; the others are `padding`.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<LaneOf<T>> load_some(const T* from, int count, Lanes<LaneOf<T>> padding) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  using L = Lanes<LaneOf<T>>;
  if constexpr (sizeof(T) == 8) {
    const __mmask8 mask = static_cast<__mmask8>(_bzhi_u32(~0u, count));
    return (typename L::Native)_mm512_mask_loadu_pd((__m512d)padding.native, mask, from);
  } else {
    const __mmask16 mask = static_cast<__mmask16>(_bzhi_u32(~0u, count));
    if constexpr (sizeof(T) == 4) {
      return (typename L::Native)_mm512_mask_loadu_ps((__m512)padding.native, mask, from);
    } else {
      const L loaded = widened<T>((HalfBits)_mm256_maskz_loadu_epi16(mask, from));
      return (typename L::Native)_mm512_mask_mov_ps(
          (__m512)padding.native, mask, (__m512)loaded.native);
    }
  }
#else
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    using Native = typename Lanes<LaneOf<T>>::Native;
    const __m256i mask = first_lanes(count);
    const __m256 loaded = _mm256_maskload_ps(reinterpret_cast<const float*>(from), mask);
    return (Native)_mm256_blendv_ps((__m256)padding.native, loaded, (__m256)mask);
  }
#endif
  typename Stored<T>::Vector vector = narrowed<T>(padding);
  for (int i = 0; i < count; ++i) copy_element<T>(&vector, i, from, i);
  return widened<T>(vector);
#endif
}
template <typename T>
SOFTMAX_EXT_INLINE void store_some(T* to, Lanes<LaneOf<T>> lanes, int count) {
  const auto vector = narrowed<T>(lanes);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const __mmask16 mask = static_cast<__mmask16>(_bzhi_u32(~0u, count));
  if constexpr (sizeof(T) == 8)
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>(mask), (__m512d)vector);
  else if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(to, mask, (__m512)vector);
  else
    _mm256_mask_storeu_epi16(to, mask, (__m256i)vector);
#else
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    _mm256_maskstore_ps(reinterpret_cast<float*>(to), first_lanes(count), (__m256)vector);
    return;
  }
#endif
  for (int i = 0; i < count; ++i) copy_element<T>(to, i, &vector, i);
#endif
}

// The same where often all lanes are meant.
template <typename T>
SOFTMAX_EXT_INLINE Lanes<LaneOf<T>> load_lanes(const T* from, int count, Lanes<LaneOf<T>> padding) {
  return count == Lanes<LaneOf<T>>::kCount ? load(from) : load_some(from, count, padding);
}
template <typename T>
SOFTMAX_EXT_INLINE void store_lanes(T* to, int count, Lanes<LaneOf<T>> lanes) {
  if (count == Lanes<LaneOf<T>>::kCount)
    store(to, lanes);
  else
    store_some(to, lanes, count);
}

// --- Lanes chosen from another vector.

// Which lane of another vector a lane takes, and whether it takes one.
class LaneChoice {
 public:
  using Native = Lanes<float>::Native;

  LaneChoice() = default;
  SOFTMAX_EXT_INLINE LaneChoice(const int32_t* lane, const bool* takes) {
    memcpy(&index_, lane, sizeof index_);
#if defined(__AVX512F__)
    mask_ = 0;
    for (int i = 0; i < Lanes<float>::kCount; ++i)
      mask_ = static_cast<__mmask16>(mask_ | (takes[i] ? 1 << i : 0));
#else
    for (int i = 0; i < Lanes<float>::kCount; ++i) mask_[i] = takes[i] ? -1 : 0;
#endif
  }
  SOFTMAX_EXT_INLINE Lanes<float> onto(Lanes<float> a, Lanes<float> from) const {
#if defined(__AVX512F__)
    return (Native)_mm512_mask_permutexvar_ps(
        (__m512)a.native, mask_, (__m512i)index_, (__m512)from.native);
#elif defined(__AVX2__)
    const __m256 chosen = _mm256_permutevar8x32_ps((__m256)from.native, (__m256i)index_);
    return (Native)_mm256_blendv_ps((__m256)a.native, chosen, (__m256)mask_);
#else
    for (int i = 0; i < Lanes<float>::kCount; ++i)
      if (mask_[i] != 0) a.native[i] = from.native[index_[i]];
    return a;
#endif
  }

 private:
  Lanes<float>::Bits index_;
#if defined(__AVX512F__)
  __mmask16 mask_;
#else
  Lanes<float>::Bits mask_;
#endif
};

// --- Halves of a vector, as vectors of half the size.

template <int... i>
struct Indices {};
template <int count>
using FirstIndices = Indices<__integer_pack(count)...>;
template <int first, typename Vector, int... i>
SOFTMAX_EXT_INLINE auto half(Vector vector, Indices<i...>) {
  return __builtin_shufflevector(vector, vector, (first + i)...);
}
template <typename Vector>
inline constexpr int kHalfCount = sizeof(Vector) / sizeof(Vector{}[0]) / 2;
template <typename Vector>
SOFTMAX_EXT_INLINE auto lower_half(Vector vector) {
  return half<0>(vector, FirstIndices<kHalfCount<Vector>>());
}
template <typename Vector>
SOFTMAX_EXT_INLINE auto upper_half(Vector vector) {
  return half<kHalfCount<Vector>>(vector, FirstIndices<kHalfCount<Vector>>());
}
template <typename Vector, int... i>
SOFTMAX_EXT_INLINE auto joined(Vector low, Vector high, Indices<i...>) {
  return __builtin_shufflevector(low, high, i...);
}

// --- One number of all lanes, in a fixed order: halves are combined until one lane is left.

template <typename Vector, typename Combine>
SOFTMAX_EXT_INLINE auto reduced(Vector vector, Combine combine) {
  if constexpr (kHalfCount<Vector> == 1)
    return combine(vector[0], vector[1]);
  else
    return reduced(combine(lower_half(vector), upper_half(vector)), combine);
}

template <typename T>
SOFTMAX_EXT_INLINE T sum_of(Lanes<T> lanes) {
  return reduced(lanes.native, [](auto a, auto b) SOFTMAX_EXT_INLINE_LAMBDA { return a + b; });
}
// No lane is NaN, or it is dropped.
template <typename T>
SOFTMAX_EXT_INLINE T maximum_of(Lanes<T> lanes) {
  return reduced(
      lanes.native, [](auto a, auto b) SOFTMAX_EXT_INLINE_LAMBDA { return a > b ? a : b; });
}

// How many lanes of a equal those of b.
template <typename T>
SOFTMAX_EXT_INLINE int count_equal(Lanes<T> a, Lanes<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return __builtin_popcount(_mm512_cmp_ps_mask((__m512)a.native, (__m512)b.native, _CMP_EQ_OQ));
  else
    return __builtin_popcount(_mm512_cmp_pd_mask((__m512d)a.native, (__m512d)b.native, _CMP_EQ_OQ));
#else
  int count = 0;
  const auto equal = a == b;
  for (int i = 0; i < Lanes<T>::kCount; ++i) count -= static_cast<int>(equal[i]);
  return count;
#endif
}

// A vector of floats as two of doubles, and back with one rounding.
SOFTMAX_EXT_INLINE void split(Lanes<float> x, Lanes<double> (&halves)[2]) {
  halves[0] = __builtin_convertvector(lower_half(x.native), Lanes<double>::Native);
  halves[1] = __builtin_convertvector(upper_half(x.native), Lanes<double>::Native);
}
SOFTMAX_EXT_INLINE Lanes<float> join(Lanes<double> low, Lanes<double> high) {
  using HalfFloats __attribute__((vector_size(kVectorBytes / 2))) = float;
  return (Lanes<float>::Native)joined(
      __builtin_convertvector(low.native, HalfFloats),
      __builtin_convertvector(high.native, HalfFloats),
      FirstIndices<Lanes<float>::kCount>());
}

// Sums in double of lanes of either type.
template <typename T>
struct Total {
  static constexpr int kVectors = sizeof(double) / sizeof(T);
  Lanes<double> vectors[kVectors];

  Total() = default;
  SOFTMAX_EXT_INLINE explicit Total(double value) {
    for (auto& vector : vectors) vector = Lanes<double>(value);
  }
  SOFTMAX_EXT_INLINE void add(Lanes<T> x) {
    if constexpr (kVectors == 1) {
      vectors[0] += x;
    } else {
      Lanes<double> halves[2];
      split(x, halves);
      vectors[0] += halves[0];
      vectors[1] += halves[1];
    }
  }
  SOFTMAX_EXT_INLINE void add(const Total& other) {
    for (int i = 0; i < kVectors; ++i) vectors[i] += other.vectors[i];
  }
  SOFTMAX_EXT_INLINE Lanes<T> rounded() const {
    if constexpr (kVectors == 1)
      return vectors[0];
    else
      return join(vectors[0], vectors[1]);
  }
  SOFTMAX_EXT_INLINE double sum() const {
    if constexpr (kVectors == 1)
      return sum_of(vectors[0]);
    else
      return sum_of(vectors[0] + vectors[1]);
  }
};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
