#include "cuda/kernels.h"
#include "cuda/map_rows.cuh"

namespace softmax_ext::cuda {

cudaError_t launch_softmax(const LogitsProblem& problem, cudaStream_t stream) {
  return map_logits<SoftmaxForward>(problem, stream);
}

cudaError_t launch_softmax_backward(const GradientsProblem& problem, cudaStream_t stream) {
  return map_gradients<SoftmaxBackward>(problem, stream);
}

}  // namespace softmax_ext::cuda
