#pragma once
// An operator applied to the rows of tensors: all that a mapping of rows to threads asks for,
// whichever the operator is. `PerRow` is particular to the operator:
//
//   Operator                            the row operator (csrc/numerics/row_operators.h)
//   kReduces                            whether a summary of the row is needed
//   kMaps                               whether each element becomes an output
//   operator_of(row)                    the operator, with what it knows of that row
//   constants(row, op, summary)         what map needs to know of the whole row
//   map(op, element, constants)         the output
//   finish(row, op, summary)            writes the results of a whole row; called by one thread
//   kMapsTerms                          whether terms of the summary are kept for the map; then
//   map_term(op, term, constants)       the output
//   rescaled(op, constants, factor)     constants for terms that are 1 / factor times as large
//   mask[row]                           where there is a mask: these columns are kept (KeptColumns), and the others
//                                       are left out as if they held padding
//   kHasSpecialColumn                   whether one column has an output of its own; then
//   special_column(constants)           which
//   special_output(constants)           its output

#include <cstdint>
#include <type_traits>

#include "cuda/packed.cuh"
#include "cuda/row_arguments.cuh"
#include "cuda/simt.h"

namespace softmax_ext::cuda {

template <typename PerRow>
concept HasMask = requires(const PerRow& rows) {
  rows.mask;
};

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
  static constexpr bool kMapsTerms = kReduces && kMaps && PerRow::kMapsTerms;
  static constexpr bool kMasks = HasMask<PerRow>;
  static constexpr bool kSumsDistances = [] {
    if constexpr (Operator::kHasMax) return Operator::kSumsDistances;
    return false;
  }();

  // Terms are multiplied by 2 to this. Outputs of 16 bits go down to 2^-133, where terms without it
  // are 0; what it costs in precision is below theirs. Outputs of float want terms in full instead.
  static constexpr int kTermOffset = kMapsTerms && sizeof(Out) == 2 ? 8 : 0;
  static constexpr bool kTermsInFull = kMapsTerms && sizeof(Out) > 2;
  static constexpr int kTermUnit = 1 << kTermOffset;

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
};

struct AllColumns {};

// Where one row lies, and what of it is kept.
template <typename Task>
struct RowPlace {
  const typename Task::In* inputs[Task::kInputs];
  typename Task::Out* output;
  [[no_unique_address]] std::conditional_t<Task::kMasks, KeptColumns, AllColumns> kept;

  __device__ __forceinline__ RowPlace(const Task& task, int64_t row) {
    SOFTMAX_EXT_UNROLL
    for (int k = 0; k < Task::kInputs; ++k) inputs[k] = task.inputs[k][row];
    if constexpr (Task::kMaps) output = task.outputs[row];
    if constexpr (Task::kMasks) kept = task.per_row.mask[row];
  }
};

// Packs in registers, in the type that memory has: two elements of 16 bits take one register, and
// are converted when they are used.
template <typename Task, int packs, int pack_elements = Task::kPackElements>
struct HeldPacks {
  Pack<typename Task::In, pack_elements> of_input[Task::kInputs][packs];

  __device__ __forceinline__ typename Task::Element at(int pack, int j) const {
    if constexpr (Task::kInputs == 1)
      return {of_input[0][pack].lane(j)};
    else
      return {of_input[0][pack].lane(j), of_input[1][pack].lane(j)};
  }
  // Between two uses: else the compiler keeps the converted elements too, which take twice as many
  // registers.
  __device__ __forceinline__ void forget_conversions() {
    if constexpr (sizeof(typename Task::In) < 4 && pack_elements > 1) {
      SOFTMAX_EXT_UNROLL
      for (int k = 0; k < Task::kInputs; ++k) {
        SOFTMAX_EXT_UNROLL
        for (int i = 0; i < packs; ++i) {
          SOFTMAX_EXT_UNROLL
          for (uint32_t& word : of_input[k][i].words) simt::make_opaque(word);
        }
      }
    }
  }
};

}  // namespace softmax_ext::cuda
