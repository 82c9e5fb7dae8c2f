#pragma once
// The CUDA kernels of losses, as those of kernels.h.

#include "cuda/kernels.h"

namespace softmax_ext::cuda {

// Class indices, one per row. A row whose target is ignore_index has loss 0 and gradient 0. Any
// other target outside [0, length) ends the kernel with an error of the device, and is never used
// as an index.
struct ClassTargets {
  const int64_t* classes;
  int64_t ignore_index;
};

// Per row, in the type of arithmetic: the loss, and max and log Σ exp(x − max) for backward.
struct CrossEntropyRows {
  void* losses;
  void* maxima;
  void* log_sums;
};

// outputs of the type pair: as the logits.
cudaError_t launch_cross_entropy(
    const RowsProblem&,
    const StridedRows& logits,
    const ClassTargets& targets,
    const CrossEntropyRows& results);
// The same, and the gradient in the same visit to the row, for losses with the gradients `grads`. The
// logits themselves may become grad_logits if `target_logits` is another tensor.
cudaError_t launch_cross_entropy_with_gradient(
    const RowsProblem&,
    const StridedRows& logits,
    const StridedRows& target_logits,
    const ClassTargets& targets,
    const RowNumbers& grads,
    const CrossEntropyRows& results,
    void* grad_logits);
cudaError_t launch_cross_entropy_backward(
    const RowsProblem&,
    const StridedRows& logits,
    const ClassTargets& targets,
    const RowNumbers& grads,
    const RowNumbers& maxima,
    const RowNumbers& log_sums,
    void* grad_logits);

// The loss with options (csrc/losses.h).
struct WeightedLoss {
  ClassTargets classes;       // or, without `classes`,
  StridedRows probabilities;  // in the type of arithmetic
  const void* weights;        // of the classes, in the type of arithmetic; null: 1
  const void* weights_sum;    // theirs
  double label_smoothing;
  int64_t all_classes;  // that the smoothing is spread over
  double softcap;       // 0: none
  double z_loss;
  bool is_part;  // of rows, which may be −inf alone; a target of −1 is in another part
};
struct WeightedLossResults {
  CrossEntropyRows rows;
  void* logsumexps;         // or null
  void* weights = nullptr;  // Σ q; or null
};
struct LossGradients {
  RowNumbers losses;
  RowNumbers logsumexps;  // null data: 0
};

// What launch_cross_entropy does, at the problem's temperatures. With `grad_logits`, which may be the
// logits, the gradient in the same visit.
cudaError_t launch_weighted_loss(
    const RowsProblem&,
    const StridedRows& logits,
    const WeightedLoss& loss,
    const WeightedLossResults& results,
    const LossGradients& grads,
    void* grad_logits);
// From the maxima and log-sums that the above left in `rows`.
cudaError_t launch_weighted_loss_backward(
    const RowsProblem&,
    const StridedRows& logits,
    const WeightedLoss& loss,
    const CrossEntropyRows& rows,
    const LossGradients& grads,
    void* grad_logits);

// The sum of each of `groups` runs of `rows` losses (float, or double for float64), in double and a
// fixed order, or the mean of those whose class is not ignore_index; and how many those are. Without
// results, only that.
cudaError_t launch_reduce_losses(
    ElementType type,
    int64_t groups,
    int64_t rows,
    const void* losses,
    const ClassTargets& targets,
    bool mean,
    void* results,
    double* counts,
    cudaStream_t stream);

// Elements of rows (outer × length × inner, contiguous) times the factor of their row, in the type of
// arithmetic. A row whose factor is 1 is left alone.
cudaError_t launch_scale_gradient(
    ElementType type,
    int64_t outer,
    int64_t length,
    int64_t inner,
    const void* factors,
    void* gradient,
    cudaStream_t stream);

}  // namespace softmax_ext::cuda
