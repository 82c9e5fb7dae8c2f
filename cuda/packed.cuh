#pragma once
// Elements in memory: 16-byte access, and conversion to and from the type of arithmetic.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "csrc/numerics/host_device.h"

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
    return __float2half_rn(value);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(value);
  else
    return static_cast<T>(value);
}

// `count` consecutive elements that move in accesses of 16 bytes, or one element in an access of
// its own size.
template <typename T, int count>
struct alignas(count == 1 ? sizeof(T) : 16) Pack {
  static_assert(count == 1 || count * sizeof(T) % 16 == 0);
  T elements[count];
};

// The elements of a pack of every type: 16 bytes of the smallest, two or four accesses of the
// larger.
template <typename... Types>
inline constexpr int kPackElements = [] {
  std::size_t smallest = 16;
  ((smallest = sizeof(Types) < smallest ? sizeof(Types) : smallest), ...);
  return static_cast<int>(16 / smallest);
}();

// What it returns where nothing is loaded does not matter.
template <int count, typename T>
__device__ __forceinline__ Pack<T, count> load_pack(const T* source, bool is_inside) {
  Pack<T, count> pack{};
  if (is_inside) pack = *reinterpret_cast<const Pack<T, count>*>(source);
  return pack;
}
template <int count, typename T>
__device__ __forceinline__ void store_pack(T* target, const Pack<T, count>& pack) {
  *reinterpret_cast<Pack<T, count>*>(target) = pack;
}

// elements[j] is made of element j of each pack.
template <int count, typename Element, typename... Packs>
__device__ __forceinline__ void unpack(
    Element* elements, bool is_inside, Element padding, const Packs&... packs) {
  SOFTMAX_EXT_UNROLL
  for (int j = 0; j < count; ++j)
    elements[j] = is_inside ? Element{to_lane(packs.elements[j])...} : padding;
}

}  // namespace softmax_ext::cuda
