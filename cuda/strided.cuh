#pragma once
// A dim that is not last: neighbours in memory belong to neighbouring rows. Threads lie across the
// rows, where access is wide, and along the dim. Rows of up to kStridedThreads · kStridedHeld
// elements stay in registers; longer ones are read twice.

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

inline constexpr int kStridedThreads = 32;  // along the dim; not yet measured
inline constexpr int kStridedHeld = 4;      // elements of a row that a thread holds

// Threads across the rows: the packs of a row index are 128 bytes together.
inline constexpr int kStridedAcross = 8;  // not yet measured

template <int columns, typename Task>
struct StridedTile {
  using Held = HeldPacks<Task, kStridedHeld, columns>;

  // The elements of one of the thread's rows.
  struct Column {
    const Held& held;
    int column;
    __device__ __forceinline__ typename Task::Element operator[](int u) const {
      return held.at(u, column);
    }
  };

  // Elements first, first + kStridedThreads, … of `columns` adjacent rows.
  __device__ __forceinline__ static Held load(
      const Task& task, const RowPlace<Task>& place, int64_t first, int64_t length) {
    Held held;
    SOFTMAX_EXT_UNROLL
    for (int u = 0; u < kStridedHeld; ++u) {
      const int64_t j = first + u * kStridedThreads;
      SOFTMAX_EXT_UNROLL
      for (int k = 0; k < Task::kInputs; ++k) {
        if (j < length) {
          held.of_input[k][u] = load_pack<typename Task::In, columns>(
              place.inputs[k] + j * task.inputs[k].length_stride);
          continue;
        }
        SOFTMAX_EXT_UNROLL
        for (int c = 0; c < columns; ++c) held.of_input[k][u].elements[c] = Task::padding();
      }
    }
    return held;
  }
};

// Merges the summaries of the threads along the dim, pairwise; every thread receives those of its
// rows. finish(c, summary) is called by one thread for each row.
template <int columns, typename Task, typename Finish>
__device__ __forceinline__ void merge_along_dim(
    const typename Task::Operator (&ops)[columns],
    typename Task::Summary (&summaries)[columns],
    int across,
    int along,
    Finish finish) {
  struct Exchange {
    typename Task::Summary at[kStridedThreads][kStridedAcross][columns];
  };
  Exchange& exchange = simt::shared<Exchange>();
  SOFTMAX_EXT_UNROLL
  for (int c = 0; c < columns; ++c) exchange.at[along][across][c] = summaries[c];
  SOFTMAX_EXT_UNROLL
  for (int offset = kStridedThreads / 2; offset > 0; offset /= 2) {
    simt::sync_block();
    if (along >= offset) continue;
    SOFTMAX_EXT_UNROLL
    for (int c = 0; c < columns; ++c)
      exchange.at[along][across][c] =
          ops[c].merge(exchange.at[along][across][c], exchange.at[along + offset][across][c]);
  }
  simt::sync_block();
  SOFTMAX_EXT_UNROLL
  for (int c = 0; c < columns; ++c) summaries[c] = exchange.at[0][across][c];
  if (along < columns) finish(along, exchange.at[0][across][along]);
  simt::sync_block();  // before the next rows take the place
}

// `columns` adjacent rows per thread; they divide `inner`.
template <int columns, typename Task>
__global__ void __launch_bounds__(kStridedThreads* kStridedAcross, 1) strided_kernel(
    const __grid_constant__ Task task, int64_t outer, int64_t length, int64_t inner) {
  using Out = typename Task::Out;
  using Operator = typename Task::Operator;
  using Tile = StridedTile<columns, Task>;
  constexpr int kAcross = kStridedAcross;
  constexpr int kRowsAcross = kAcross * columns;
  constexpr int64_t kChunk = kStridedThreads * kStridedHeld;
  const int across = simt::thread_index() % kAcross;
  const int along = simt::thread_index() / kAcross;
  const int64_t tiles = (inner + kRowsAcross - 1) / kRowsAcross;
  for (int64_t tile = simt::block_index(); tile < outer * tiles; tile += simt::block_count()) {
    const int64_t inner_index = tile % tiles * kRowsAcross + across * columns;
    const bool is_row = inner_index < inner;
    const int64_t row = tile / tiles * inner + (is_row ? inner_index : 0);
    const int64_t elements = is_row ? length : 0;
    const RowPlace<Task> place(task, row);

    Operator ops[columns];
    typename Task::Summary summaries[columns];
    SOFTMAX_EXT_UNROLL
    for (int c = 0; c < columns; ++c) {
      ops[c] = task.per_row.operator_of(row + c);
      summaries[c] = ops[c].empty();
    }
    typename Tile::Held held;
    if constexpr (Task::kReduces) {
      for (int64_t begin = 0; begin < length; begin += kChunk) {
        held = Tile::load(task, place, begin + along, elements);
        SOFTMAX_EXT_UNROLL
        for (int c = 0; c < columns; ++c)
          summaries[c] = ops[c].merge(
              summaries[c], ops[c].summarize(typename Tile::Column{held, c}, kStridedHeld));
      }
      merge_along_dim<columns, Task>(
          ops, summaries, across, along, [&](int c, const typename Task::Summary& summary) {
            if (is_row) task.per_row.finish(row + c, task.per_row.operator_of(row + c), summary);
          });
    }
    if constexpr (Task::kMaps) {
      using Constants = decltype(task.per_row.constants(row, ops[0], summaries[0]));
      Constants constants[columns];
      SOFTMAX_EXT_UNROLL
      for (int c = 0; c < columns; ++c)
        constants[c] = task.per_row.constants(row + c, ops[c], summaries[c]);
      for (int64_t begin = 0; begin < length; begin += kChunk) {
        if (!Task::kReduces || length > kChunk)  // else the row is still held
          held = Tile::load(task, place, begin + along, elements);
        SOFTMAX_EXT_UNROLL
        for (int u = 0; u < kStridedHeld; ++u) {
          const int64_t j = begin + along + u * kStridedThreads;
          if (j >= elements) continue;
          Pack<Out, columns> mapped;
          SOFTMAX_EXT_UNROLL
          for (int c = 0; c < columns; ++c)
            mapped.elements[c] =
                from_lane<Out>(task.per_row.map(ops[c], held.at(u, c), constants[c], j));
          store_pack(place.output + j * task.outputs.length_stride, mapped);
        }
      }
    }
  }
}

template <typename Task>
cudaError_t launch_strided(
    const Task& task, int64_t outer, int64_t length, int64_t inner, cudaStream_t stream) {
  constexpr int kPack = Task::kPackElements;
  // Whether packs of adjacent rows begin at multiples of 16 bytes.
  const auto is_packable = [](auto rows) {
    const int64_t element = sizeof(*rows.data);
    const bool is_adjacent = rows.offsets.strides[0] == 1 &&
                             (rows.offsets.dims == 1 || rows.offsets.sizes[0] % kPack == 0);
    rows.offsets.strides[0] = 0;  // the rows of a pack are less than that apart
    return is_adjacent && rows.is_aligned() && rows.length_stride * element % 16 == 0;
  };
  bool is_packed = inner % kPack == 0 && (!Task::kMaps || is_packable(task.outputs));
  for (const auto& input : task.inputs) is_packed = is_packed && is_packable(input);
  const auto launch = [&]<int columns>() {
    constexpr int kRowsAcross = kStridedAcross * columns;
    return launch_up_to_one_wave<strided_kernel<columns, Task>>(
        {.blocks = outer * ((inner + kRowsAcross - 1) / kRowsAcross),
         .threads_per_block = kStridedThreads * kStridedAcross},
        stream,
        task,
        outer,
        length,
        inner);
  };
  return is_packed ? launch.template operator()<kPack>() : launch.template operator()<1>();
}

}  // namespace softmax_ext::cuda
