#include <algorithm>
#include <cstdint>
#include <cub/block/block_reduce.cuh>

#include "cuda/launch.cuh"
#include "cuda/losses.h"

namespace softmax_ext::cuda {
namespace {

constexpr int kThreads = 512;

struct LossTotal {
  double sum;
  int64_t valid;  // rows that are not ignored
};

struct AddTotals {
  __device__ __forceinline__ LossTotal operator()(const LossTotal& a, const LossTotal& b) const {
    return {a.sum + b.sum, a.valid + b.valid};
  }
};

// A block per group: thread t adds the losses t, t + threads, …, and the block the threads' totals,
// always in the same order.
template <typename Loss>
__global__ void __launch_bounds__(kThreads) reduce_losses_kernel(
    int64_t groups,
    int64_t rows,
    const Loss* losses,
    const int64_t* classes,
    int64_t ignore_index,
    bool mean,
    Loss* results,
    double* counts) {
  using BlockReduce = cub::BlockReduce<LossTotal, kThreads, cub::BLOCK_REDUCE_WARP_REDUCTIONS>;
  auto& temporary = simt::shared<typename BlockReduce::TempStorage>();
  for (int64_t group = simt::block_index(); group < groups; group += simt::block_count()) {
    LossTotal mine{0, 0};
    for (int64_t i = simt::thread_index(); i < rows; i += kThreads) {
      const int64_t row = group * rows + i;
      mine = AddTotals()(mine, {static_cast<double>(losses[row]), classes[row] != ignore_index});
    }
    const LossTotal total = BlockReduce(temporary).Reduce(mine, AddTotals());
    if (simt::thread_index() == 0) {
      const auto count = static_cast<double>(total.valid);
      counts[group] = count;
      if (results != nullptr)
        results[group] = static_cast<Loss>(mean ? total.sum / count : total.sum);
    }
    simt::sync_block();  // before the next group takes the temporary storage
  }
}

template <typename Loss>
cudaError_t launch(
    int64_t groups,
    int64_t rows,
    const void* losses,
    const ClassTargets& targets,
    bool mean,
    void* results,
    double* counts,
    cudaStream_t stream) {
  return launch_blocks<reduce_losses_kernel<Loss>>(
      {.blocks = groups, .threads_per_block = kThreads},
      stream,
      groups,
      rows,
      static_cast<const Loss*>(losses),
      targets.classes,
      targets.ignore_index,
      mean,
      static_cast<Loss*>(results),
      counts);
}

}  // namespace

cudaError_t launch_reduce_losses(
    ElementType type,
    int64_t groups,
    int64_t rows,
    const void* losses,
    const ClassTargets& targets,
    bool mean,
    void* results,
    double* counts,
    cudaStream_t stream) {
  const auto of_type = type == ElementType::float64 ? &launch<double> : &launch<float>;
  if (type != ElementType::float64 && type != ElementType::float32) return cudaErrorInvalidValue;
  return of_type(groups, rows, losses, targets, mean, results, counts, stream);
}

}  // namespace softmax_ext::cuda
