#pragma once
// The part of a row that a thread keeps in registers, from its load to its store. Memory is read
// and written once. Every mapping of threads along a row is made of these functions.
//
// Of the row, or of a tile of it, thread t of `threads` owns the packs t, t + threads, …
//
//   row:  | pack 0   | pack 1   | … | pack n   | pack n+1 | …        (n threads)
//   by:   | thread 0 | thread 1 | … | thread 0 | thread 1 | …
//
// A summary is always made of packs counted from the row's first column, so a row has the same bits
// wherever it lies. What is stored moves in packs that begin at multiples of 16 bytes in the
// output: where an odd length shifts the rows, those begin `shift` columns earlier, and the packs
// that are held for the map are not those that are summarized.

#include <cstdint>

#include "cuda/row_task.cuh"

namespace softmax_ext::cuda {

// How many packs a row takes at most, whichever its alignment.
constexpr int64_t packs_of_row(int64_t length, int pack_elements) {
  return length % pack_elements == 0 ? length / pack_elements
                                     : (length + 2 * pack_elements - 2) / pack_elements;
}

// How many columns before the row's first one the packs of the output begin.
template <bool is_aligned, typename Task>
__device__ __forceinline__ int output_shift(const RowPlace<Task>& place, int64_t length) {
  constexpr int kPack = Task::kPackElements;
  constexpr int kOutVector = kVectorElements<typename Task::Out>;
  if constexpr (is_aligned || !Task::kMaps) return 0;
  if (length % kPack == 0) return 0;
  const int of_output = misalignment(place.output);
  if constexpr (kOutVector < kPack) {  // a shift that aligns the input too, if there is one
    const int of_input = static_cast<int>(
        reinterpret_cast<std::uintptr_t>(place.inputs[0]) / sizeof(typename Task::In) % kPack);
    if (of_input % kOutVector == of_output) return of_input;
  }
  return of_output;
}

// Packs whose columns begin at first, first + step, …
template <int packs, bool is_aligned, typename Task, typename Index>
__device__ __forceinline__ HeldPacks<Task, packs> load_packs(
    const RowPlace<Task>& place, Index first, int step, Index length) {
  constexpr int kPack = Task::kPackElements;
  HeldPacks<Task, packs> held;
  SOFTMAX_EXT_UNROLL
  for (int i = 0; i < packs; ++i) {
    SOFTMAX_EXT_UNROLL
    for (int k = 0; k < Task::kInputs; ++k) {
      if constexpr (is_aligned)
        held.of_input[k][i] =
            load_aligned_columns<kPack>(place.inputs[k], first + i * step, length, Task::padding());
      else
        held.of_input[k][i] =
            load_columns<kPack>(place.inputs[k], first + i * step, length, Task::padding());
    }
  }
  return held;
}

template <int packs, bool is_aligned, typename Task, typename Constants, typename Index>
__device__ __forceinline__ void store_mapped(
    const Task& task,
    const RowPlace<Task>& place,
    const typename Task::Operator& op,
    const Constants& constants,
    const HeldPacks<Task, packs>& held,
    Index first,
    int step,
    Index length) {
  using Out = typename Task::Out;
  constexpr int kPack = Task::kPackElements;
  SOFTMAX_EXT_UNROLL
  for (int i = 0; i < packs; ++i) {
    const Index column = first + i * step;
    Pack<Out, kPack> mapped;
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < kPack; ++j)
      mapped.elements[j] =
          from_lane<Out>(task.per_row.map(op, held.at(i, j), constants, column + j));
    if constexpr (is_aligned)
      store_aligned_columns(place.output, column, length, mapped);
    else
      store_columns(place.output, column, length, mapped);
  }
}

// A whole row, of which each of `threads` threads holds its part; `merge(op, summary)` gives every
// thread the summary of the row, and finishes it.
template <int threads, int packs, bool is_aligned, typename Task, typename Merge>
__device__ __forceinline__ void map_resident_row(
    const Task& task, int64_t row, int length, int first_pack, int thread, Merge merge) {
  constexpr int kPack = Task::kPackElements;
  constexpr int kStep = threads * kPack;
  const RowPlace<Task> place(task, row);
  const auto op = task.per_row.operator_of(row);
  const int shift = output_shift<is_aligned>(place, length);
  const int first = (first_pack + thread) * kPack;
  auto held =
      load_packs<packs, is_aligned>(place, Task::kReduces ? first : first - shift, kStep, length);
  auto summary = op.empty();
  if constexpr (Task::kReduces) {
    summary = op.summarize(held, packs * kPack);
    held.forget_conversions();
    if (shift != 0)  // from the L1 cache, where the packs that were summarized have just come
      held = load_packs<packs, is_aligned>(place, first - shift, kStep, length);
    summary = merge(op, summary);
  }
  if constexpr (Task::kMaps)
    store_mapped<packs, is_aligned>(
        task,
        place,
        op,
        task.per_row.constants(row, op, summary),
        held,
        first - shift,
        kStep,
        length);
}

}  // namespace softmax_ext::cuda
