// softmax of logits beside a mask. What its rows and chunks share with softmax is softmax's: `finish`.

#include "csrc/cpu/simd/masked_lanes.h"
// Loads of masked elements are known to the loops.
#include "csrc/cpu/simd/softmax_rows.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

template <typename In, typename Out>
constexpr MaskedSoftmaxKernels<In, Out> masked_softmax_kernels() {
  using Logit = Masked<In>;
  return {rows<Softmax, Logit, Out>, columns<Softmax, Logit, Out>, summarize<Logit, Out>};
}

}  // namespace

const ByTypes<MaskedSoftmaxKernels> masked_softmax_table = {
    masked_softmax_kernels<float, float>(),
    masked_softmax_kernels<double, double>(),
    masked_softmax_kernels<BFloat16, BFloat16>(),
    masked_softmax_kernels<Float16, Float16>(),
    masked_softmax_kernels<BFloat16, float>(),
    masked_softmax_kernels<Float16, float>()};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
