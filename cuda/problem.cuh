#pragma once
// From a problem of cuda/kernels.h, whose types are values, to tasks, whose types are types.

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <type_traits>
#include <utility>

#include "csrc/numerics/row_operators.h"
#include "cuda/kernels.h"
#include "cuda/launch_rows.cuh"
#include "cuda/row_task.cuh"

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
template <typename Logit, typename Output = Logit>
using LaneOf = std::common_type_t<decltype(to_lane(Logit{})), decltype(to_lane(Output{}))>;

// body.template operator()<Logit, Output>() with the C++ types of a pair.
template <bool only_same, typename Body>
cudaError_t with_types(TypePair types, Body&& body) {
  cudaError_t error = cudaErrorInvalidValue;
  const auto call = [&]<TypePair pair>() {
    if constexpr (!only_same || pair.logits == pair.outputs)
      error = body.template operator()<
          typename ElementTypeOf<pair.logits>::Type,
          typename ElementTypeOf<pair.outputs>::Type>();
  };
  const auto call_matching = [&]<std::size_t... i>(std::index_sequence<i...>) {
    ((kTypePairs[i] == types && (call.template operator()<kTypePairs[i]>(), true)) || ...);
  };
  call_matching(std::make_index_sequence<std::size(kTypePairs)>{});
  return error;
}

template <typename T>
RowPointers<const T> input_rows(const StridedRows& rows) {
  return {static_cast<const T*>(rows.data), rows.offsets, rows.length_stride};
}

// Contiguous as [outer, length, inner].
template <typename T>
RowPointers<T> output_rows(const RowsProblem& problem, void* data) {
  RowOffsets offsets;
  if (problem.inner == 1) {
    offsets.strides[0] = problem.length;
  } else {
    offsets.dims = 2;
    offsets.sizes[0] = problem.inner;
    offsets.strides[0] = 1;
    offsets.sizes[1] = problem.outer;
    offsets.strides[1] = problem.length * problem.inner;
  }
  return {static_cast<T*>(data), offsets, problem.inner};
}

template <typename Lane>
RowValues<const Lane> row_values(const RowNumbers& numbers) {
  return {static_cast<const Lane*>(numbers.data), numbers.stride};
}

template <typename Lane>
RowScales<Lane> row_scales(const RowTemperatures& temperatures) {
  return {row_values<Lane>(temperatures.numbers), static_cast<Lane>(temperatures.scale)};
}

template <typename Task>
cudaError_t launch_problem(const RowsProblem& problem, const Task& task) {
  return launch_rows(
      task,
      {problem.outer, problem.length, problem.inner},
      {problem.allocate_workspace, problem.context},
      problem.stream);
}

// Operators that are given by the scale of a row, and map each element.
template <typename Operator_>
struct MapWithScale {
  using Operator = Operator_;
  using Lane = typename Operator::Output;
  static constexpr bool kReduces = true;
  static constexpr bool kMaps = true;
  static constexpr bool kMapsTerms = Operator::kMapsTerms;
  static constexpr bool kHasSpecialColumn = false;

  RowScales<Lane> scales;

  __device__ __forceinline__ Operator operator_of(int64_t row) const { return {{scales[row]}}; }
  __device__ __forceinline__ auto constants(
      int64_t, const Operator& op, const typename Operator::Summary& summary) const {
    return op.constants(summary);
  }
  template <typename Constants>
  __device__ __forceinline__ Lane
  map(const Operator& op,
      const typename Operator::Element& element,
      const Constants& constants) const {
    return op.map(element, constants);
  }
  template <typename Constants>
  __device__ __forceinline__ Lane
  map_term(const Operator& op, Lane term, const Constants& constants) const {
    return op.map_term(term, constants);
  }
  template <typename Constants>
  __device__ __forceinline__ Constants
  rescaled(const Operator& op, const Constants& constants, Lane factor) const {
    return op.rescaled(constants, factor);
  }
  __device__ __forceinline__ void finish(
      int64_t, const Operator&, const typename Operator::Summary&) const {}
};

// softmax and log_softmax.
template <template <typename, typename> class Operator>
cudaError_t map_logits(const RowsProblem& problem, const StridedRows& logits, void* outputs) {
  return with_types<false>(problem.types, [&]<typename Logit, typename Output>() {
    using Lane = LaneOf<Logit, Output>;
    using PerRow = MapWithScale<Operator<Lane, Lane>>;
    return launch_problem(
        problem,
        RowTask<PerRow, Output, Logit, 1>{
            .per_row = {row_scales<Lane>(problem.temperatures)},
            .inputs = {input_rows<Logit>(logits)},
            .outputs = output_rows<Output>(problem, outputs)});
  });
}

// Their backwards.
template <template <typename, typename> class Operator>
cudaError_t map_gradients(
    const RowsProblem& problem,
    const StridedRows& grad_outputs,
    const StridedRows& outputs,
    void* grad_logits) {
  return with_types<false>(problem.types, [&]<typename Logit, typename Output>() {
    using Lane = LaneOf<Logit, Output>;
    using PerRow = MapWithScale<Operator<Lane, Lane>>;
    return launch_problem(
        problem,
        RowTask<PerRow, Logit, Output, 2>{
            .per_row = {row_scales<Lane>(problem.temperatures)},
            .inputs = { input_rows<Output>(grad_outputs),           input_rows<Output>(outputs)},
            .outputs = output_rows<Logit>(problem, grad_logits)
    });
  });
}

}  // namespace softmax_ext::cuda
