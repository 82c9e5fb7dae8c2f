#pragma once
// An operator applied to the rows of tensors: all that a mapping of rows to threads asks for,
// whichever the operator is. `PerRow` is particular to the operator:
//
//   Operator                            the row operator (csrc/numerics/row_operators.h)
//   kReduces                            whether a summary of the row is needed
//   kMaps                               whether each element becomes an output
//   operator_of(row)                    the operator, with what it knows of that row
//   constants(row, op, summary)         what map needs to know of the whole row
//   map(op, element, constants, column) the output there
//   finish(row, op, summary)            writes the results of a whole row; called by one thread

#include <cstdint>
#include <type_traits>

#include "cuda/packed.cuh"
#include "cuda/row_arguments.cuh"
#include "cuda/simt.h"

namespace softmax_ext::cuda {

template <typename PerRow_, typename Out_, typename In_, int inputs_>
struct RowTask {
  using PerRow = PerRow_;
  using Operator = typename PerRow::Operator;
  using Element = typename Operator::Element;
  using Summary = typename Operator::Summary;
  using In = In_;
  using Out = Out_;
  static constexpr int kInputs = inputs_;
  static constexpr int kPackElements = cuda::kPackElements<Out, In>;
  static constexpr bool kReduces = PerRow::kReduces;
  static constexpr bool kMaps = PerRow::kMaps;

  PerRow per_row;
  RowPointers<const In> inputs[kInputs];
  RowPointers<Out> outputs;  // not used where the operator does not map

  bool is_aligned(int64_t length) const {
    bool is_aligned = length % kPackElements == 0 && (!kMaps || outputs.is_aligned());
    for (const auto& input : inputs) is_aligned = is_aligned && input.is_aligned();
    return is_aligned;
  }

  // An input that changes no summary.
  __device__ __forceinline__ static In padding() {
    if constexpr (kInputs == 1)
      return from_lane<In>(Operator::padding());
    else
      return from_lane<In>(Operator::padding().grad);
  }
  template <typename... Inputs>
  __device__ __forceinline__ static Element element(Inputs... of_inputs) {
    return Element{to_lane(of_inputs)...};
  }
};

// Where one row lies.
template <typename Task>
struct RowPlace {
  const typename Task::In* inputs[Task::kInputs];
  typename Task::Out* output;

  __device__ __forceinline__ RowPlace(const Task& task, int64_t row) {
    SOFTMAX_EXT_UNROLL
    for (int k = 0; k < Task::kInputs; ++k) inputs[k] = task.inputs[k][row];
    if constexpr (Task::kMaps) output = task.outputs[row];
  }
};

// Packs in registers, in the type that memory has: two elements of 16 bits take one register, and
// are converted when they are used.
template <typename Task, int packs, int pack_elements = Task::kPackElements>
struct HeldPacks {
  Pack<typename Task::In, pack_elements> of_input[Task::kInputs][packs];

  __device__ __forceinline__ typename Task::Element at(int pack, int j) const {
    if constexpr (Task::kInputs == 1)
      return Task::element(of_input[0][pack].elements[j]);
    else
      return Task::element(of_input[0][pack].elements[j], of_input[1][pack].elements[j]);
  }
  __device__ __forceinline__ typename Task::Element operator[](int i) const {
    return at(i / pack_elements, i % pack_elements);
  }
  // Between two uses: else the compiler keeps the converted elements too, which take twice as many
  // registers.
  __device__ __forceinline__ void forget_conversions() {
    if constexpr (sizeof(typename Task::In) < 4) {
      SOFTMAX_EXT_UNROLL
      for (int k = 0; k < Task::kInputs; ++k) {
        SOFTMAX_EXT_UNROLL
        for (int i = 0; i < packs; ++i) {
          auto& pack = of_input[k][i];
          uint32_t words[sizeof(pack) / 4];
          __builtin_memcpy(words, &pack, sizeof(pack));
          SOFTMAX_EXT_UNROLL
          for (uint32_t& word : words) simt::make_opaque(word);
          __builtin_memcpy(&pack, words, sizeof(pack));
        }
      }
    }
  }
};

}  // namespace softmax_ext::cuda
