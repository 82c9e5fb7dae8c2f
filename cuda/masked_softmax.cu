#include "csrc/numerics/masked_softmax.h"
#include "cuda/kernels.h"
#include "cuda/problem.cuh"

namespace softmax_ext::cuda {
namespace {

template <typename Lane>
struct MaskedSoftmaxRows : MapWithScale<MaskedSoftmaxForward<Lane, Lane>> {
  using Operator = MaskedSoftmaxForward<Lane, Lane>;

  RowMask<const uint8_t> mask;
  bool empty_is_zero;

  __device__ __forceinline__ Operator operator_of(int64_t row) const {
    return {{{this->scales[row]}}, empty_is_zero};
  }
};

}  // namespace

cudaError_t launch_masked_softmax(
    const RowsProblem& problem, const StridedRows& logits, const Mask& mask, void* outputs) {
  return with_types<false>(problem.types, [&]<typename Logit, typename Output>() {
    using Lane = LaneOf<Logit, Output>;
    return launch_problem(
        problem,
        RowTask<MaskedSoftmaxRows<Lane>, Output, Logit, 1>{
            .per_row =
                {{row_scales<Lane>(problem.temperatures)},
                          {input_rows<uint8_t>(mask.kept), mask.queries, problem.length},
                          mask.empty_is_zero},
            .inputs = {               input_rows<Logit>(logits)                     },
            .outputs = output_rows<Output>(problem, outputs)
    });
  });
}

}  // namespace softmax_ext::cuda
