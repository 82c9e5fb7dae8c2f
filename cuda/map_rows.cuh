#pragma once
// From a problem of cuda/kernels.h to the kernel for its types, length and alignment.

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <type_traits>
#include <utility>

#include "csrc/numerics/row_operators.h"
#include "cuda/kernels.h"
#include "cuda/launch_policy.h"
#include "cuda/packed.cuh"
#include "cuda/row_arguments.cuh"
#include "cuda/warp_per_row.cuh"

namespace softmax_ext::cuda {

template <ElementType type>
struct ElementTypeOf;
template <>
struct ElementTypeOf<ElementType::float64> {
  using Type = double;
};
template <>
struct ElementTypeOf<ElementType::float32> {
  using Type = float;
};
template <>
struct ElementTypeOf<ElementType::float16> {
  using Type = __half;
};
template <>
struct ElementTypeOf<ElementType::bfloat16> {
  using Type = __nv_bfloat16;
};

// The type of arithmetic: double for double, else float.
template <typename Logit, typename Output>
using LaneOf = std::common_type_t<decltype(to_lane(Logit{})), decltype(to_lane(Output{}))>;

// body.template operator()<Logit, Output>() with the C++ types of a pair.
template <typename Body>
cudaError_t with_types(TypePair types, Body&& body) {
  cudaError_t error = cudaErrorInvalidValue;
  const auto call_matching = [&]<std::size_t... i>(std::index_sequence<i...>) {
    ((kTypePairs[i] == types && (error = body.template operator()<
                                         typename ElementTypeOf<kTypePairs[i].logits>::Type,
                                         typename ElementTypeOf<kTypePairs[i].outputs>::Type>(),
                                 true)) ||
     ...);
  };
  call_matching(std::make_index_sequence<std::size(kTypePairs)>{});
  return error;
}

template <typename T>
RowPointers<const T> input_rows(const StridedRows& rows) {
  return {static_cast<const T*>(rows.data), rows.stride};
}

template <typename Lane>
RowScales<Lane> row_scales(const RowTemperatures& temperatures) {
  return {
      static_cast<const Lane*>(temperatures.data),
      temperatures.stride,
      static_cast<Lane>(temperatures.scale)};
}

template <typename Policy, typename Operator, typename Out, typename... In>
cudaError_t map_rows(
    int64_t rows,
    int64_t length,
    cudaStream_t stream,
    RowScales<typename Operator::Output> scales,
    RowPointers<Out> outputs,
    RowPointers<const In>... inputs) {
  constexpr Mapping mapping = Policy::kValue.mapping;
  if constexpr (mapping == Mapping::warp_per_row)
    return launch_warp_per_row<Policy, Operator>(rows, length, stream, scales, outputs, inputs...);
}

// softmax and log_softmax: every element of a row of logits becomes one element of the output.
template <template <typename, typename> class Operator>
cudaError_t map_logits(const LogitsProblem& problem, cudaStream_t stream) {
  return with_types(problem.types, [&]<typename Logit, typename Output>() {
    using Lane = LaneOf<Logit, Output>;
    return with_policy<kForwardPolicies>(
        problem.length, cudaErrorInvalidValue, [&]<typename Policy>() {
          return map_rows<Policy, Operator<Lane, Lane>>(
              problem.rows,
              problem.length,
              stream,
              row_scales<Lane>(problem.temperatures),
              RowPointers<Output>{static_cast<Output*>(problem.outputs), problem.length},
              input_rows<Logit>(problem.logits));
        });
  });
}

// Their backwards: a gradient and an output at each column become the gradient of the logit there.
template <template <typename, typename> class Operator>
cudaError_t map_gradients(const GradientsProblem& problem, cudaStream_t stream) {
  return with_types(problem.types, [&]<typename Logit, typename Output>() {
    using Lane = LaneOf<Logit, Output>;
    return with_policy<kBackwardPolicies>(
        problem.length, cudaErrorInvalidValue, [&]<typename Policy>() {
          return map_rows<Policy, Operator<Lane, Lane>>(
              problem.rows,
              problem.length,
              stream,
              row_scales<Lane>(problem.temperatures),
              RowPointers<Logit>{static_cast<Logit*>(problem.grad_logits), problem.length},
              input_rows<Output>(problem.grad_outputs),
              input_rows<Output>(problem.outputs));
        });
  });
}

}  // namespace softmax_ext::cuda
