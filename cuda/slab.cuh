#pragma once
// Very short rows: a block takes a slab of consecutive rows, which together are whole vectors of 16
// bytes whatever the length of one, through shared memory. A thread computes a row, in registers.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/launch_policy.h"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

// Rows lie in shared memory as they do in memory. Threads that read the same column of their rows
// meet a bank twice at most, as lengths that are multiples of 16 bytes do not come here.
template <typename Task>
struct SlabStage {
  using In = typename Task::In;
  using Out = typename Task::Out;
  static constexpr int kElements =
      kSlabThreads * static_cast<int>(std::min<int64_t>(
                         kMaxSlabLength, kMaxSlabRowBytes / std::max(sizeof(In), sizeof(Out))));
  // Outputs of the same type take the place of the first input, row by row as that is consumed.
  static constexpr bool kInPlace = std::is_same_v<Out, In>;

  alignas(16) In in[Task::kInputs][kElements];
  alignas(16) Out out[Task::kMaps && !kInPlace ? kElements : 1];

  __device__ __forceinline__ Out* outputs() {
    if constexpr (kInPlace)
      return in[0];
    else
      return out;
  }
};

// From or to a slab of `elements` elements that lie one after another.
template <typename T>
__device__ __forceinline__ void load_slab(const T* source, int elements, T* stage) {
  constexpr int kVector = kVectorElements<T>;
  const bool is_aligned = misalignment(source) == 0;
  const int whole = is_aligned ? elements / kVector * kVector : 0;
  for (int e = simt::thread_index() * kVector; e < whole; e += kSlabThreads * kVector)
    *reinterpret_cast<Pack<T, kVector>*>(stage + e) = load_pack<T, kVector>(source + e);
  SOFTMAX_EXT_NO_UNROLL
  for (int e = whole + simt::thread_index(); e < elements; e += kSlabThreads) stage[e] = source[e];
}
template <typename T>
__device__ __forceinline__ void store_slab(T* target, int elements, const T* stage) {
  constexpr int kVector = kVectorElements<T>;
  const bool is_aligned = misalignment(target) == 0;
  const int whole = is_aligned ? elements / kVector * kVector : 0;
  for (int e = simt::thread_index() * kVector; e < whole; e += kSlabThreads * kVector)
    store_pack(target + e, load_pack<T, kVector>(stage + e));
  SOFTMAX_EXT_NO_UNROLL
  for (int e = whole + simt::thread_index(); e < elements; e += kSlabThreads) target[e] = stage[e];
}

// One thread's row of at most `longest` elements, from its inputs in shared memory to its outputs.
template <int longest, typename Task>
__device__ __forceinline__ void map_staged_row(
    const Task& task, int64_t row, int length, int first, SlabStage<Task>& stage) {
  using PerRow = typename Task::PerRow;
  using Out = typename Task::Out;
  using Lane = typename Task::Operator::Output;
  const auto op = task.per_row.operator_of(row);
  HeldPacks<Task, longest, 1> held;
  SOFTMAX_EXT_UNROLL
  for (int k = 0; k < Task::kInputs; ++k) {
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < longest; ++j)
      held.of_input[k][j].element = j < length ? stage.in[k][first + j] : Task::padding();
  }
  if constexpr (Task::kMasks)
    leave_out<1>(held, task.per_row.mask[row], Part<int>{0, length, 0}, 0);
  HeldTerms<Task, longest, 1> terms;
  auto summary = op.empty();
  if constexpr (Task::kReduces) {
    LaneTeam<1> team;
    summary = summarize_part(op, held, Part<int>{0, length, 0}, team, terms);
    task.per_row.finish(row, op, summary);
  }
  if constexpr (Task::kMaps) {
    Out* const outputs = stage.outputs() + first;
    auto constants = task.per_row.constants(row, op, summary);
    if constexpr (Task::kMapsTerms)
      constants = task.per_row.rescaled(op, constants, Lane(1) / Task::kTermUnit);
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < longest; ++j) {
      if (j >= length) continue;
      if constexpr (Task::kMapsTerms)
        outputs[j] = from_lane<Out>(task.per_row.map_term(op, terms.of_pack[j][0], constants));
      else
        outputs[j] = from_lane<Out>(task.per_row.map(op, held.at(j, 0), constants));
    }
    if constexpr (PerRow::kHasSpecialColumn)
      outputs[task.per_row.special_column(constants)] =
          from_lane<Out>(task.per_row.special_output(constants));
  }
}

// So many rows that they fill the stage, and begin at whole vectors.
template <typename Task>
__host__ __device__ __forceinline__ int slab_rows(int64_t length) {
  return static_cast<int>(SlabStage<Task>::kElements / length) / 16 * 16;
}

// Registers for rows of this length, and enough blocks at a time to keep memory busy.
template <int longest, typename Task>
inline constexpr int kSlabBlocks = (longest <= 8 ? 8 : 4) /
                                   (sizeof(typename Task::Operator::Output) / 4);

// Inputs and outputs of rows that lie one after another move as vectors, those of other rows element
// by element.
template <int longest, typename Task>
__global__ void __launch_bounds__(kSlabThreads, kSlabBlocks<longest, Task>)
    slab_kernel(const __grid_constant__ Task task, int64_t rows, int length) {
  using Stage = SlabStage<Task>;
  Stage& stage = simt::shared<Stage>();
  const int thread = simt::thread_index();
  const int most = slab_rows<Task>(length);
  for (int64_t first_row = simt::block_index() * most; first_row < rows;
       first_row += simt::block_count() * most) {
    const int count = static_cast<int>(rows - first_row < most ? rows - first_row : most);
    SOFTMAX_EXT_UNROLL
    for (int k = 0; k < Task::kInputs; ++k) {
      const auto& input = task.inputs[k];
      if (input.offsets.dims == 1 && input.offsets.strides[0] == length) {
        load_slab(input[first_row], count * length, stage.in[k]);
      } else {
        SOFTMAX_EXT_NO_UNROLL
        for (int r = thread; r < count; r += kSlabThreads) {
          const auto* const row = input[first_row + r];
          SOFTMAX_EXT_NO_UNROLL
          for (int j = 0; j < length; ++j) stage.in[k][r * length + j] = row[j];
        }
      }
    }
    simt::sync_block();
    SOFTMAX_EXT_NO_UNROLL
    for (int r = thread; r < count; r += kSlabThreads)
      map_staged_row<longest>(task, first_row + r, length, r * length, stage);
    simt::sync_block();
    if constexpr (Task::kMaps) {
      store_slab(task.outputs[first_row], count * length, stage.outputs());
      simt::sync_block();
    }
  }
}

template <typename Task>
cudaError_t launch_slab(const Task& task, int64_t rows, int64_t length, cudaStream_t stream) {
  const int most = slab_rows<Task>(length);
  const auto launch = [&]<int longest>() {
    return launch_blocks<slab_kernel<longest, Task>>(
        {.blocks = (rows + most - 1) / most, .threads_per_block = kSlabThreads},
        stream,
        task,
        rows,
        static_cast<int>(length));
  };
  static_assert(kMaxSlabLength == 32);
  if (length <= 4) return launch.template operator()<4>();
  if (length <= 8) return launch.template operator()<8>();
  if (length <= 16) return launch.template operator()<16>();
  return launch.template operator()<32>();
}

}  // namespace softmax_ext::cuda
