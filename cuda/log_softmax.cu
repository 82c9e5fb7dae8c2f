#include "cuda/kernels.h"
#include "cuda/map_rows.cuh"

namespace softmax_ext::cuda {

cudaError_t launch_log_softmax(const LogitsProblem& problem, cudaStream_t stream) {
  return map_logits<LogSoftmaxForward>(problem, stream);
}

cudaError_t launch_log_softmax_backward(const GradientsProblem& problem, cudaStream_t stream) {
  return map_gradients<LogSoftmaxBackward>(problem, stream);
}

}  // namespace softmax_ext::cuda
