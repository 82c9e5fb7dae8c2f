#pragma once
// Elements in memory: packs that move in accesses of 16 bytes, and conversion to and from the type
// of arithmetic.

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

template <typename T, typename Lane>
__device__ __forceinline__ auto rounded_pair(Lane low, Lane high) {
  const float2 lanes{static_cast<float>(low), static_cast<float>(high)};
  if constexpr (std::is_same_v<T, __half>)
    return __float22half2_rn(lanes);
  else
    return __float22bfloat162_rn(lanes);
}

template <typename T>
inline constexpr int kVectorElements = 16 / static_cast<int>(sizeof(T));

// `count` elements that move in accesses of 16 bytes, as the words that registers hold: two elements
// of 16 bits share one. Or one element that moves alone.
template <typename T, int count>
struct alignas(16) Pack {
  static_assert(count % kVectorElements<T> == 0);
  static constexpr int kWords = count * static_cast<int>(sizeof(T)) / 4;

  uint32_t words[kWords];

  __device__ __forceinline__ static Pack filled_with(T element) {
    Pack pack;
    if constexpr (sizeof(T) == 2) {
      uint16_t half;
      __builtin_memcpy(&half, &element, 2);
      SOFTMAX_EXT_UNROLL
      for (uint32_t& word : pack.words) word = half | static_cast<uint32_t>(half) << 16;
    } else {
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < count; ++j) pack.set(j, element);
    }
    return pack;
  }
  __device__ __forceinline__ T operator[](int j) const {
    T element;
    if constexpr (sizeof(T) == 2) {
      const auto half = static_cast<uint16_t>(words[j / 2] >> j % 2 * 16);
      __builtin_memcpy(static_cast<void*>(&element), &half, 2);
    } else {
      __builtin_memcpy(static_cast<void*>(&element), words + j * (sizeof(T) / 4), sizeof(T));
    }
    return element;
  }
  __device__ __forceinline__ void set(int j, T element) {
    if constexpr (sizeof(T) == 2) {
      uint16_t half;
      __builtin_memcpy(&half, &element, 2);
      const uint32_t kept = words[j / 2] & (j % 2 == 0 ? 0xffff0000u : 0x0000ffffu);
      words[j / 2] = kept | static_cast<uint32_t>(half) << j % 2 * 16;
    } else {
      __builtin_memcpy(words + j * (sizeof(T) / 4), &element, sizeof(T));
    }
  }
  // Element j in the type of arithmetic: one instruction.
  __device__ __forceinline__ auto lane(int j) const {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      const uint32_t bits = j % 2 == 0 ? words[j / 2] << 16 : words[j / 2] & 0xffff0000u;
      float value;
      __builtin_memcpy(&value, &bits, 4);
      return value;
    } else {
      return to_lane((*this)[j]);
    }
  }
  // Elements from lane_of(j); those of 16 bits are rounded in pairs.
  template <typename LaneOf>
  __device__ __forceinline__ static Pack from_lanes(LaneOf lane_of) {
    Pack pack;
    if constexpr (sizeof(T) == 2) {
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < count; j += 2) {
        const auto pair = rounded_pair<T>(lane_of(j), lane_of(j + 1));
        __builtin_memcpy(pack.words + j / 2, &pair, 4);
      }
    } else {
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < count; ++j) pack.set(j, from_lane<T>(lane_of(j)));
    }
    return pack;
  }
};
template <typename T>
struct Pack<T, 1> {
  T element;

  __device__ __forceinline__ static Pack filled_with(T element) { return {element}; }
  __device__ __forceinline__ auto lane(int) const { return to_lane(element); }
  __device__ __forceinline__ void set(int, T value) { element = value; }
  template <typename LaneOf>
  __device__ __forceinline__ static Pack from_lanes(LaneOf lane_of) {
    return {from_lane<T>(lane_of(0))};
  }
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
    *target = pack.element;
  } else {
    constexpr int kVectors = sizeof(Pack<T, count>) / 16;
    uint4 vectors[kVectors];
    __builtin_memcpy(vectors, &pack, sizeof(pack));
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < kVectors; ++i)
      simt::store_vector(reinterpret_cast<uint4*>(target) + i, vectors[i]);
  }
}

// Element by element, at any alignment: columns [first, first + count) of a row, and `padding` for
// those outside [begin, end), which are not touched.
template <int count, typename T, typename Index>
__device__ __forceinline__ Pack<T, count> load_elements(
    const T* row, Index first, Index begin, Index end, T padding) {
  auto pack = Pack<T, count>::filled_with(padding);
  SOFTMAX_EXT_UNROLL
  for (int j = 0; j < count; ++j)
    if (begin <= first + j && first + j < end) pack.set(j, row[first + j]);
  return pack;
}
template <int count, typename T, typename Index>
__device__ __forceinline__ void store_elements(
    T* row, Index first, Index begin, Index end, const Pack<T, count>& pack) {
  SOFTMAX_EXT_UNROLL
  for (int j = 0; j < count; ++j)
    if (begin <= first + j && first + j < end) row[first + j] = pack[j];
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

}  // namespace softmax_ext::cuda
