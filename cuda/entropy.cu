#include "csrc/numerics/entropy.h"
#include "cuda/kernels.h"
#include "cuda/problem.cuh"

namespace softmax_ext::cuda {
namespace {

// One number of each row, in the type of arithmetic.
template <typename Lane>
struct EntropyRows {
  using Operator = EntropyForward<Lane, Lane>;
  static constexpr bool kReduces = true;
  static constexpr bool kMaps = false;
  static constexpr bool kMapsTerms = false;

  RowScales<Lane> scales;
  Lane* results;

  __device__ __forceinline__ Operator operator_of(int64_t row) const { return {{{scales[row]}}}; }
  __device__ __forceinline__ void finish(
      int64_t row, const Operator& op, const typename Operator::Summary& summary) const {
    results[row] = op.result(summary);
  }
};

template <typename Lane>
struct EntropyGradients : MapWithScale<EntropyBackward<Lane, Lane>> {
  using Operator = EntropyBackward<Lane, Lane>;

  RowValues<const Lane> grads;

  __device__ __forceinline__ Operator operator_of(int64_t row) const {
    return {{{this->scales[row]}}, grads[row]};
  }
};

}  // namespace

cudaError_t launch_entropy(const RowsProblem& problem, const StridedRows& logits, void* results) {
  return with_types<true>(problem.types, [&]<typename Logit, typename>() {
    using Lane = LaneOf<Logit>;
    return launch_problem(
        problem,
        RowTask<EntropyRows<Lane>, Logit, Logit, 1>{
            .per_row = {row_scales<Lane>(problem.temperatures), static_cast<Lane*>(results)},
            .inputs = {             input_rows<Logit>(logits)     },
     .outputs = {                             }
    });
  });
}

cudaError_t launch_entropy_backward(
    const RowsProblem& problem,
    const StridedRows& logits,
    const RowNumbers& grads,
    void* grad_logits) {
  return with_types<true>(problem.types, [&]<typename Logit, typename>() {
    using Lane = LaneOf<Logit>;
    return launch_problem(
        problem,
        RowTask<EntropyGradients<Lane>, Logit, Logit, 1>{
            .per_row = {{row_scales<Lane>(problem.temperatures)}, row_values<Lane>(grads)},
            .inputs = {               input_rows<Logit>(logits)                        },
            .outputs = output_rows<Logit>(problem, grad_logits)
    });
  });
}

}  // namespace softmax_ext::cuda
