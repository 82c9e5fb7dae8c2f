#pragma once
// Which instruction set the CPU kernels use.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <type_traits>

#include "csrc/cpu/simd/kernels.h"

namespace softmax_ext::cpu {

// The kernels of the best level ("portable", "avx2" = x86-64-v3, "avx512" = x86-64-v4) that the
// processor has and that the environment allows: SOFTMAX_EXT_CPU and torch's ATEN_CPU_CAPABILITY
// are upper limits. Chosen at the first call. c10::ValueError for an unknown SOFTMAX_EXT_CPU.
const simd::Kernels& kernels();

template <typename T>
using KernelElement = std::conditional_t<
    std::is_same_v<T, c10::BFloat16>,
    simd::BFloat16,
    std::conditional_t<std::is_same_v<T, c10::Half>, simd::Float16, T>>;

// The other way round.
template <typename T>
using TorchElement = std::conditional_t<
    std::is_same_v<T, simd::BFloat16>,
    c10::BFloat16,
    std::conditional_t<std::is_same_v<T, simd::Float16>, c10::Half, T>>;

// Whether there are kernels for the pair; other types are converted first.
template <typename In, typename Out>
inline constexpr bool kHasKernels = std::is_same_v<In, Out> ||
                                    (sizeof(In) == 2 && std::is_same_v<Out, float>);

template <typename In, typename Out, template <typename, typename> class Kernels>
const auto& of_types(const simd::ByTypes<Kernels>& table) {
  if constexpr (std::is_same_v<In, double>)
    return table.f64;
  else if constexpr (std::is_same_v<In, float>)
    return table.f32;
  else if constexpr (std::is_same_v<In, simd::BFloat16> && std::is_same_v<Out, float>)
    return table.bf16_f32;
  else if constexpr (std::is_same_v<In, simd::BFloat16>)
    return table.bf16;
  else if constexpr (std::is_same_v<Out, float>)
    return table.f16_f32;
  else
    return table.f16;
}
template <typename T, template <typename> class Kernels>
const Kernels<T>& of_type(const simd::ByType<Kernels>& table) {
  if constexpr (std::is_same_v<T, double>)
    return table.f64;
  else if constexpr (std::is_same_v<T, float>)
    return table.f32;
  else if constexpr (std::is_same_v<T, simd::BFloat16>)
    return table.bf16;
  else
    return table.f16;
}

}  // namespace softmax_ext::cpu
