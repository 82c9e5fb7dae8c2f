#pragma once
// Very short rows: a block takes a slab of consecutive rows, which together are whole vectors of 16
// bytes whatever the length of one, through shared memory. A thread computes a row.

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/launch_policy.h"
#include "cuda/resident_row.cuh"

namespace softmax_ext::cuda {

// Rows of a slab in shared memory, an odd number of 32-bit words apart: threads that read the same
// column of their rows meet no bank twice.
template <typename T>
struct SlabPitch {
  static constexpr int kMaxBytes =
      (static_cast<int>(std::min<int64_t>(kMaxSlabRowBytes, kMaxSlabLength * sizeof(T)) + 3) / 4 |
       1) *
      4;
  __device__ __forceinline__ static int bytes(int length) {
    // Elements of 8 bytes want an even number of words.
    const int words = (length * static_cast<int>(sizeof(T)) + 3) / 4;
    return (sizeof(T) == 8 ? words + (words % 4 == 0 ? 2 : 0) : words | 1) * 4;
  }
};

template <typename Task>
struct SlabStage {
  using In = typename Task::In;
  using Out = typename Task::Out;
  static constexpr int kInBytes = kSlabRows * (SlabPitch<In>::kMaxBytes + 4);
  // A smaller or equal output takes the place of the first input, element by element as that is
  // consumed.
  static constexpr bool kInPlace = sizeof(Out) <= sizeof(In);
  static constexpr int kOutBytes =
      Task::kMaps && !kInPlace ? kSlabRows * (SlabPitch<Out>::kMaxBytes + 4) : 1;

  alignas(16) unsigned char in[Task::kInputs][kInBytes];
  alignas(16) unsigned char out[kOutBytes];
};

// e / length, for e below 2^12 and lengths up to kMaxSlabLength, by one multiplication.
class DivideByLength {
 public:
  __device__ __forceinline__ explicit DivideByLength(int length)
      : reciprocal_((1u << 20) / static_cast<unsigned>(length) + 1) {}
  __device__ __forceinline__ int operator()(int e) const {
    return static_cast<int>(static_cast<unsigned>(e) * reciprocal_ >> 20);
  }

 private:
  unsigned reciprocal_;
};

template <typename T>
__device__ __forceinline__ T& staged(unsigned char* stage, int pitch, int row, int column) {
  return *reinterpret_cast<T*>(stage + row * pitch + column * static_cast<int>(sizeof(T)));
}

// Element j of a thread's row, as an operator takes it.
template <typename Task>
struct StagedRow {
  unsigned char* of_input[Task::kInputs];

  __device__ __forceinline__ typename Task::Element operator[](int j) const {
    using In = typename Task::In;
    const int offset = j * static_cast<int>(sizeof(In));
    if constexpr (Task::kInputs == 1)
      return Task::element(*reinterpret_cast<const In*>(of_input[0] + offset));
    else
      return Task::element(
          *reinterpret_cast<const In*>(of_input[0] + offset),
          *reinterpret_cast<const In*>(of_input[1] + offset));
  }
};

template <typename T>
__device__ __forceinline__ void stage_rows(
    const RowPointers<const T>& source,
    int64_t first_row,
    int rows,
    int length,
    unsigned char* stage) {
  constexpr int kVector = kVectorElements<T>;
  const DivideByLength row_of(length);
  const int pitch = SlabPitch<T>::bytes(length);
  const int elements = rows * length;
  const T* const begin = source[first_row];
  const bool is_contiguous = source.offsets.dims == 1 && source.offsets.strides[0] == length;
  if (is_contiguous && misalignment(begin) == 0) {
    for (int e = simt::thread_index() * kVector; e < elements; e += kSlabRows * kVector) {
      const auto pack = load_columns<kVector>(begin, e, elements, T{});
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < kVector; ++j) {
        const int row = row_of(e + j);
        if (e + j < elements) staged<T>(stage, pitch, row, e + j - row * length) = pack.elements[j];
      }
    }
    return;
  }
  for (int e = simt::thread_index(); e < elements; e += kSlabRows) {
    const int row = row_of(e);
    staged<T>(stage, pitch, row, e - row * length) = source[first_row + row][e - row * length];
  }
}

template <typename T>
__device__ __forceinline__ void unstage_rows(
    const RowPointers<T>& target,
    int64_t first_row,
    int rows,
    int length,
    int pitch,
    unsigned char* stage) {
  constexpr int kVector = kVectorElements<T>;
  const DivideByLength row_of(length);
  const int elements = rows * length;
  T* const begin = target[first_row];
  for (int e = simt::thread_index() * kVector; e < elements; e += kSlabRows * kVector) {
    Pack<T, kVector> pack;
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < kVector; ++j) {
      const int element = e + j < elements ? e + j : e;
      const int row = row_of(element);
      pack.elements[j] = staged<T>(stage, pitch, row, element - row * length);
    }
    store_columns<kVector>(begin, e, elements, pack);
  }
}

template <typename Task>
__global__ void __launch_bounds__(kSlabRows, kBlocksPerMultiprocessor<kSlabRows>)
    slab_kernel(const __grid_constant__ Task task, int64_t rows, int length) {
  using In = typename Task::In;
  using Out = typename Task::Out;
  using Stage = SlabStage<Task>;
  Stage& stage = simt::shared<Stage>();
  const int in_pitch = SlabPitch<In>::bytes(length);
  const int out_pitch = Stage::kInPlace ? in_pitch : SlabPitch<Out>::bytes(length);
  unsigned char* const out_stage = Stage::kInPlace ? stage.in[0] : stage.out;
  const int thread = simt::thread_index();
  for (int64_t first_row = simt::block_index() * kSlabRows; first_row < rows;
       first_row += simt::block_count() * kSlabRows) {
    const int slab_rows =
        static_cast<int>(rows - first_row < kSlabRows ? rows - first_row : kSlabRows);
    SOFTMAX_EXT_UNROLL
    for (int k = 0; k < Task::kInputs; ++k)
      stage_rows(task.inputs[k], first_row, slab_rows, length, stage.in[k]);
    simt::sync_block();
    if (thread < slab_rows) {
      const int64_t row = first_row + thread;
      const auto op = task.per_row.operator_of(row);
      StagedRow<Task> elements;
      SOFTMAX_EXT_UNROLL
      for (int k = 0; k < Task::kInputs; ++k)
        elements.of_input[k] = stage.in[k] + thread * in_pitch;
      auto summary = op.empty();
      if constexpr (Task::kReduces) {
        summary = op.summarize(elements, length);
        task.per_row.finish(row, op, summary);
      }
      if constexpr (Task::kMaps) {
        const auto constants = task.per_row.constants(row, op, summary);
        for (int j = 0; j < length; ++j)
          staged<Out>(out_stage, out_pitch, thread, j) =
              from_lane<Out>(task.per_row.map(op, elements[j], constants, j));
      }
    }
    simt::sync_block();
    if constexpr (Task::kMaps) {
      unstage_rows(task.outputs, first_row, slab_rows, length, out_pitch, out_stage);
      simt::sync_block();
    }
  }
}

template <typename Task>
cudaError_t launch_slab(const Task& task, int64_t rows, int64_t length, cudaStream_t stream) {
  return launch_up_to_one_wave<slab_kernel<Task>>(
      {.blocks = (rows + kSlabRows - 1) / kSlabRows, .threads_per_block = kSlabRows},
      stream,
      task,
      rows,
      static_cast<int>(length));
}

}  // namespace softmax_ext::cuda
