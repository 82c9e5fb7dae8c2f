#include "cuda/kernels.h"
#include "cuda/problem.cuh"

namespace softmax_ext::cuda {

cudaError_t launch_log_softmax(
    const RowsProblem& problem, const StridedRows& logits, void* outputs) {
  return map_logits<LogSoftmaxForward>(problem, logits, outputs);
}

cudaError_t launch_log_softmax_backward(
    const RowsProblem& problem,
    const StridedRows& grad_outputs,
    const StridedRows& outputs,
    void* grad_logits) {
  return map_gradients<LogSoftmaxBackward>(problem, grad_outputs, outputs, grad_logits);
}

}  // namespace softmax_ext::cuda
