#pragma once
// Elements in memory: 16-byte access at any alignment, and conversion to and from the type of
// arithmetic.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "csrc/numerics/host_device.h"
#include "cuda/simt.h"

namespace softmax_ext::cuda {

// 16-bit types compute in float.
__device__ __forceinline__ double to_lane(double value) { return value; }
__device__ __forceinline__ float to_lane(float value) { return value; }
__device__ __forceinline__ float to_lane(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_lane(__nv_bfloat16 value) { return __bfloat162float(value); }

// Rounds to nearest.
template <typename T, typename Lane>
__device__ __forceinline__ T from_lane(Lane value) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(static_cast<float>(value));
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(static_cast<float>(value));
  else
    return static_cast<T>(value);
}

template <typename T>
inline constexpr int kVectorElements = 16 / static_cast<int>(sizeof(T));

// `count` elements that move in accesses of 16 bytes, or one element that moves alone.
template <typename T, int count>
struct alignas(count == 1 ? sizeof(T) : 16) Pack {
  static_assert(count == 1 || count % kVectorElements<T> == 0);
  T elements[count];
};

// Whole vectors of 16 bytes.
template <typename T, int count>
__device__ __forceinline__ Pack<T, count> load_pack(const T* source) {
  if constexpr (count == 1) {
    return {*source};
  } else {
    constexpr int kVectors = sizeof(Pack<T, count>) / 16;
    uint4 vectors[kVectors];
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < kVectors; ++i) vectors[i] = reinterpret_cast<const uint4*>(source)[i];
    Pack<T, count> pack;
    __builtin_memcpy(&pack, vectors, sizeof(pack));
    return pack;
  }
}
template <typename T, int count>
__device__ __forceinline__ void store_pack(T* target, const Pack<T, count>& pack) {
  if constexpr (count == 1) {
    *target = pack.elements[0];
  } else {
    constexpr int kVectors = sizeof(Pack<T, count>) / 16;
    uint4 vectors[kVectors];
    __builtin_memcpy(vectors, &pack, sizeof(pack));
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < kVectors; ++i)
      simt::store_vector(reinterpret_cast<uint4*>(target) + i, vectors[i]);
  }
}

// The elements of a pack of every type: 16 bytes of the smallest, two or four accesses of the
// larger.
template <typename... Types>
inline constexpr int kPackElements = [] {
  std::size_t smallest = 16;
  ((smallest = sizeof(Types) < smallest ? sizeof(Types) : smallest), ...);
  return static_cast<int>(16 / smallest);
}();

// By how many elements a pointer is beyond a multiple of 16 bytes.
template <typename T>
__device__ __forceinline__ int misalignment(const T* pointer) {
  return static_cast<int>(reinterpret_cast<std::uintptr_t>(pointer) % 16 / sizeof(T));
}

// The `count` elements that begin `skipped` elements into two or more consecutive 16-byte vectors.
// In three steps of 8, 4 and 2 bytes, so that registers are never indexed by a variable.
template <int count, typename T>
__device__ __forceinline__ Pack<T, count> realigned(
    const Pack<T, count + kVectorElements<T>>& vectors, int skipped) {
  constexpr int kWords = static_cast<int>(sizeof(vectors)) / 4;
  const int bytes = skipped * static_cast<int>(sizeof(T));
  uint32_t words[kWords];
  __builtin_memcpy(words, &vectors, sizeof(vectors));
  if constexpr (sizeof(T) <= 8) {
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i + 2 < kWords; ++i) words[i] = bytes & 8 ? words[i + 2] : words[i];
  }
  if constexpr (sizeof(T) <= 4) {
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i + 1 < kWords; ++i) words[i] = bytes & 4 ? words[i + 1] : words[i];
  }
  if constexpr (sizeof(T) <= 2) {
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i + 1 < kWords; ++i)
      words[i] = bytes & 2 ? words[i] >> 16 | words[i + 1] << 16 : words[i];
  }
  Pack<T, count> pack;
  __builtin_memcpy(&pack, words, sizeof(pack));
  return pack;
}

// A pack as a shift register: what is pushed last is the last element. So that a loop over elements
// needs no unrolling, which code for the rare ends of rows is not worth.
template <typename T, int count>
class ElementQueue {
 public:
  __device__ __forceinline__ ElementQueue() {
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < kWords; ++i) words_[i] = 0;
  }
  __device__ __forceinline__ explicit ElementQueue(const Pack<T, count>& pack) {
    __builtin_memcpy(words_, &pack, sizeof(words_));
  }
  __device__ __forceinline__ void push(T element) {
    shift();
    __builtin_memcpy(
        reinterpret_cast<unsigned char*>(words_) + sizeof(words_) - sizeof(T), &element, sizeof(T));
  }
  __device__ __forceinline__ T pop() {
    T element;
    __builtin_memcpy(&element, words_, sizeof(T));
    shift();
    return element;
  }
  __device__ __forceinline__ Pack<T, count> pack() const {
    Pack<T, count> pack;
    __builtin_memcpy(&pack, words_, sizeof(words_));
    return pack;
  }

 private:
  static constexpr int kWords = count * static_cast<int>(sizeof(T)) / 4;
  uint32_t words_[kWords];

  __device__ __forceinline__ void shift() {
    if constexpr (sizeof(T) == 2) {
      SOFTMAX_EXT_UNROLL
      for (int i = 0; i < kWords; ++i)
        words_[i] = words_[i] >> 16 | (i + 1 < kWords ? words_[i + 1] << 16 : 0);
    } else {
      constexpr int kStep = sizeof(T) / 4;
      SOFTMAX_EXT_UNROLL
      for (int i = 0; i + kStep < kWords; ++i) words_[i] = words_[i + kStep];
    }
  }
};

// Columns [first, first + count) of a row, with `padding` for those that the row does not have.
//
// Where the address is no multiple of 16 bytes, two neighbouring vectors are read and shifted: the
// neighbour thread reads one of them too, so it comes from the L1 cache. Packs at the ends of a row
// are read element by element: nothing outside the row is touched.
template <int count, typename T, typename Index>
__device__ __forceinline__ Pack<T, count> load_columns(
    const T* row, Index first, Index length, T padding) {
  constexpr int kVector = kVectorElements<T>;
  const T* const source = row + first;
  const int beyond = misalignment(source);
  if (first >= beyond && first - beyond + count + (beyond ? kVector : 0) <= length) {
    if (beyond == 0) return load_pack<T, count>(source);
    return realigned<count>(load_pack<T, count + kVector>(source - beyond), beyond);
  }
  ElementQueue<T, count> queue;
  SOFTMAX_EXT_NO_UNROLL
  for (int j = 0; j < count; ++j)
    queue.push(0 <= first + j && first + j < length ? source[j] : padding);
  return queue.pack();
}

// Writes those of columns [first, first + count) that the row has.
template <int count, typename T, typename Index>
__device__ __forceinline__ void store_columns(
    T* row, Index first, Index length, const Pack<T, count>& pack) {
  T* const target = row + first;
  if (first >= 0 && first + count <= length && misalignment(target) == 0) {
    store_pack(target, pack);
    return;
  }
  ElementQueue<T, count> queue(pack);
  SOFTMAX_EXT_NO_UNROLL
  for (int j = 0; j < count; ++j) {
    const T element = queue.pop();
    if (0 <= first + j && first + j < length) target[j] = element;
  }
}

// The same where every row is a whole number of packs and each begins at a multiple of 16 bytes.
template <int count, typename T, typename Index>
__device__ __forceinline__ Pack<T, count> load_aligned_columns(
    const T* row, Index first, Index length, T padding) {
  if (first < length) return load_pack<T, count>(row + first);
  Pack<T, count> pack;
  SOFTMAX_EXT_UNROLL
  for (int j = 0; j < count; ++j) pack.elements[j] = padding;
  return pack;
}
template <int count, typename T, typename Index>
__device__ __forceinline__ void store_aligned_columns(
    T* row, Index first, Index length, const Pack<T, count>& pack) {
  if (first < length) store_pack(row + first, pack);
}

}  // namespace softmax_ext::cuda
