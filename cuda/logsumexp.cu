#include "cuda/kernels.h"
#include "cuda/problem.cuh"

namespace softmax_ext::cuda {
namespace {

template <typename Lane, typename Output>
struct LogSumExpRows {
  using Operator = LogSumExpForward<Lane, Lane>;
  static constexpr bool kReduces = true;
  static constexpr bool kMaps = false;
  static constexpr bool kMapsTerms = false;

  RowScales<Lane> scales;
  Output* results;

  __device__ __forceinline__ Operator operator_of(int64_t row) const { return {{scales[row]}}; }
  __device__ __forceinline__ void finish(
      int64_t row, const Operator& op, const typename Operator::Summary& summary) const {
    results[row] = from_lane<Output>(op.result(summary));
  }
};

template <typename Lane, typename Output>
struct LogSumExpGradients : MapWithScale<LogSumExpBackward<Lane, Lane>> {
  using Operator = LogSumExpBackward<Lane, Lane>;

  const Output* grads;

  __device__ __forceinline__ Operator operator_of(int64_t row) const {
    return {{this->scales[row]}, static_cast<Lane>(to_lane(grads[row]))};
  }
};

}  // namespace

cudaError_t launch_logsumexp(const RowsProblem& problem, const StridedRows& logits, void* results) {
  return with_types<false>(problem.types, [&]<typename Logit, typename Output>() {
    using Lane = LaneOf<Logit, Output>;
    return launch_problem(
        problem,
        RowTask<LogSumExpRows<Lane, Output>, Logit, Logit, 1>{
            .per_row = {row_scales<Lane>(problem.temperatures), static_cast<Output*>(results)},
            .inputs = {             input_rows<Logit>(logits)       },
       .outputs = {                               }
    });
  });
}

cudaError_t launch_logsumexp_backward(
    const RowsProblem& problem, const StridedRows& logits, const void* grads, void* grad_logits) {
  return with_types<false>(problem.types, [&]<typename Logit, typename Output>() {
    using Lane = LaneOf<Logit, Output>;
    return launch_problem(
        problem,
        RowTask<LogSumExpGradients<Lane, Output>, Logit, Logit, 1>{
            .per_row =
                {{row_scales<Lane>(problem.temperatures)}, static_cast<const Output*>(grads)},
            .inputs = {               input_rows<Logit>(logits)                                  },
            .outputs = output_rows<Logit>(problem, grad_logits)
    });
  });
}

}  // namespace softmax_ext::cuda
