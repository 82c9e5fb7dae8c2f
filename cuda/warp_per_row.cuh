#pragma once
// Rows of up to 1,024 elements: a warp, or an aligned group of its lanes, per row. The row stays in
// registers: memory is read and written once, and lanes exchange one summary.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/packed.cuh"
#include "cuda/row_arguments.cuh"

namespace softmax_ext::cuda {

// A warp holds 32 / lanes consecutive rows. Of its row, lane l owns the packs l, l + lanes, …
//
//   row:  | pack 0 | pack 1 | … | pack 7 | pack 8 | pack 9 | …        (8 lanes per row)
//   by:   | lane 0 | lane 1 | … | lane 7 | lane 0 | lane 1 | …
//
// A pack is 16 bytes, or one element where rows are not aligned. Packs beyond the row, and rows
// beyond the last, are padding: all lanes of a warp walk the same way and take part in each
// shuffle.
//
// Launch bounds of two blocks leave registers free. Without a second bound ptxas aims at 64 of them
// in some instances and spills.
template <typename Policy, typename Operator, int pack_elements, typename Out, typename... In>
__global__ void __launch_bounds__(Policy::kValue.threads_per_block, 2) warp_per_row_kernel(
    int64_t rows,
    int length,  // a multiple of pack_elements, at most that of the policy
    RowScales<typename Operator::Output> scales,
    RowPointers<Out> outputs,
    RowPointers<const In>... inputs) {
  using Element = typename Operator::Element;
  constexpr int kLanes = Policy::kValue.lanes_per_row;
  constexpr int kElements = Policy::kValue.elements_per_lane;
  constexpr int kPacks = kElements / pack_elements;
  constexpr int kRowsPerBlock = Policy::kValue.threads_per_block / kLanes;
  constexpr int kStep = kLanes * pack_elements;
  const int group = simt::thread_index() / kLanes;
  const int first_column = simt::thread_index() % kLanes * pack_elements;

  for (int64_t base = simt::block_index() * kRowsPerBlock; base < rows;
       base += simt::block_count() * kRowsPerBlock) {
    const bool is_row = base + group < rows;
    const int64_t row = is_row ? base + group : base;
    const int columns = is_row ? length - first_column : 0;

    Element elements[kElements];
    const auto load = [&, ... sources = inputs[row] + first_column](int i) {
      const bool is_inside = i * kStep < columns;
      unpack<pack_elements>(
          elements + i * pack_elements,
          is_inside,
          Operator::padding(),
          load_pack<pack_elements>(sources + i * kStep, is_inside)...);
    };
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < kPacks; ++i) load(i);

    const Operator op{scales[row]};
    const auto constants =
        op.constants(merge_across_lanes<kLanes>(op, op.summarize(elements, kElements)));

    Out* const target = outputs[row] + first_column;
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < kPacks; ++i) {
      Pack<Out, pack_elements> pack;
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < pack_elements; ++j)
        pack.elements[j] = from_lane<Out>(op.map(elements[i * pack_elements + j], constants));
      if (i * kStep < columns) store_pack(target + i * kStep, pack);
    }
  }
}

// Packs where every row allows them, else elements.
template <typename Policy, typename Operator, typename Out, typename... In>
cudaError_t launch_warp_per_row(
    int64_t rows,
    int64_t length,
    cudaStream_t stream,
    RowScales<typename Operator::Output> scales,
    RowPointers<Out> outputs,
    RowPointers<const In>... inputs) {
  constexpr int kThreads = Policy::kValue.threads_per_block;
  constexpr int kRowsPerBlock = kThreads / Policy::kValue.lanes_per_row;
  constexpr int kPack = kPackElements<Out, In...>;
  const int64_t blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  const int columns = static_cast<int>(length);
  if (length % kPack == 0 && outputs.is_aligned_for_packs() &&
      (inputs.is_aligned_for_packs() && ...))
    return launch_up_to_one_wave<warp_per_row_kernel<Policy, Operator, kPack, Out, In...>>(
        blocks, kThreads, stream, rows, columns, scales, outputs, inputs...);
  return launch_up_to_one_wave<warp_per_row_kernel<Policy, Operator, 1, Out, In...>>(
      blocks, kThreads, stream, rows, columns, scales, outputs, inputs...);
}

}  // namespace softmax_ext::cuda
