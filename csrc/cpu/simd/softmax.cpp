// softmax, and the gradient of logsumexp, which is a softmax with another factor.

#include "csrc/cpu/simd/softmax_rows.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

template <typename Lane, typename Total>
struct LogSumExpGradient {
  static constexpr bool kHasGrad = true;
  SOFTMAX_EXT_INLINE static Lane factor(Lane scale, Lane grad, Lane max, Total sum) {
    const LogSumExpBackward<Lane, Total> op{{scale}, grad};
    return op.constants(op.summary_of(max, sum, Total(0))).factor;
  }
};

template <typename In, typename Out>
constexpr SoftmaxKernels<In, Out> softmax_kernels() {
  return {rows<Softmax, In, Out>, columns<Softmax, In, Out>, summarize<In, Out>, finish<In, Out>};
}
template <typename In>
constexpr LogSumExpBackwardKernels<In> logsumexp_backward_kernels() {
  return {rows<LogSumExpGradient, In, In>, columns<LogSumExpGradient, In, In>, beside_infinity<In>};
}

}  // namespace

const ByTypes<SoftmaxKernels> softmax_table = {
    softmax_kernels<float, float>(),
    softmax_kernels<double, double>(),
    softmax_kernels<BFloat16, BFloat16>(),
    softmax_kernels<Float16, Float16>(),
    softmax_kernels<BFloat16, float>(),
    softmax_kernels<Float16, float>()};

const ByType<LogSumExpBackwardKernels> logsumexp_backward_table = {
    logsumexp_backward_kernels<float>(),
    logsumexp_backward_kernels<double>(),
    logsumexp_backward_kernels<BFloat16>(),
    logsumexp_backward_kernels<Float16>()};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
