#include "csrc/numerics/cross_entropy.h"
#include "cuda/losses.h"
#include "cuda/problem.cuh"

namespace softmax_ext::cuda {
namespace {

// The class of each row.
struct Targets {
  const int64_t* classes;
  int64_t ignore_index;
  int64_t length;

  __device__ __forceinline__ bool is_ignored(int64_t row) const {
    return classes[row] == ignore_index;
  }
  __device__ __forceinline__ bool is_class(int64_t row) const {
    return 0 <= classes[row] && classes[row] < length;
  }
  // Once per row, by the passes that make a loss. What a call of this costs others in registers,
  // they need not pay.
  __device__ __forceinline__ void check(int64_t row) const {
    simt::require(
        is_class(row) || is_ignored(row),
        "cross_entropy: expected targets in [0, classes) or ignore_index");
  }
  // In range, whatever the target is.
  __device__ __forceinline__ int64_t operator[](int64_t row) const {
    return is_class(row) ? classes[row] : 0;
  }
};

template <typename Lane>
struct GradientConstants {
  CrossEntropyGradient<Lane> gradient;
  int64_t target;
  bool is_ignored;

  // Of an ignored row, whatever the logit is.
  __device__ __forceinline__ Lane unless_ignored(Lane of_logit) const {
    return is_ignored ? Lane(0) : of_logit;
  }
};

template <typename Lane>
struct LossRows {
  Lane* losses;
  Lane* maxima;
  Lane* log_sums;

  static LossRows of(const CrossEntropyRows& rows) {
    return {
        static_cast<Lane*>(rows.losses),
        static_cast<Lane*>(rows.maxima),
        static_cast<Lane*>(rows.log_sums)};
  }
  __device__ __forceinline__ void write(int64_t row, const CrossEntropyRow<Lane>& values) const {
    losses[row] = values.loss;
    maxima[row] = values.max;
    log_sums[row] = values.log_sum;
  }
};

template <typename Lane, typename Logit>
__device__ __forceinline__ void finish_loss(
    const Targets& targets,
    const RowPointers<const Logit>& logits,
    const LossRows<Lane>& results,
    int64_t row,
    const SoftmaxSummary<Lane>& summary) {
  targets.check(row);
  const Lane target_logit = to_lane(logits[row][targets[row] * logits.length_stride]);
  results.write(
      row,
      targets.is_ignored(row) ? CrossEntropyRow<Lane>{0, 0, 0}
                              : cross_entropy_row(summary, target_logit));
}

template <typename Lane, typename Logit>
struct CrossEntropyForward {
  using Operator = OverLogits<Lane, Lane>;
  using Summary = typename Operator::Summary;
  static constexpr bool kReduces = true;
  static constexpr bool kMaps = false;
  static constexpr bool kMapsTerms = false;

  Targets targets;
  RowPointers<const Logit> logits;
  LossRows<Lane> results;

  __device__ __forceinline__ Operator operator_of(int64_t) const { return {Lane(1)}; }
  __device__ __forceinline__ void finish(
      int64_t row, const Operator&, const Summary& summary) const {
    finish_loss(targets, logits, results, row, summary);
  }
};

template <typename Lane, typename Logit>
struct MapToGradient {
  using Operator = OverLogits<Lane, Lane>;
  using Constants = GradientConstants<Lane>;
  static constexpr bool kMaps = true;
  static constexpr bool kHasSpecialColumn = true;

  Targets targets;
  RowPointers<const Logit> logits;  // where a row's logit of its target is read
  RowValues<const Lane> grads;

  __device__ __forceinline__ Operator operator_of(int64_t) const { return {Lane(1)}; }
  __device__ __forceinline__ GradientConstants<Lane> constants_of(
      int64_t row, Lane max, Lane log_sum) const {
    const int64_t target = targets[row];
    const Lane target_logit = to_lane(logits[row][target * logits.length_stride]);
    return {
        cross_entropy_gradient(max, log_sum, grads[row], target_logit),
        target,
        targets.is_ignored(row)};
  }
  __device__ __forceinline__ Lane map(const Operator&, Lane logit, const Constants& row) const {
    return row.unless_ignored(row.gradient.other_class(logit));
  }
  __device__ __forceinline__ int64_t special_column(const Constants& row) const {
    return row.target;
  }
  __device__ __forceinline__ Lane special_output(const Constants& row) const {
    return row.unless_ignored(row.gradient.true_class);
  }
  __device__ __forceinline__ void finish(
      int64_t, const Operator&, const typename Operator::Summary&) const {}
};

template <typename Lane, typename Logit>
struct CrossEntropyWithGradient : MapToGradient<Lane, Logit> {
  using typename MapToGradient<Lane, Logit>::Operator;
  using Summary = typename Operator::Summary;
  using typename MapToGradient<Lane, Logit>::Constants;
  static constexpr bool kReduces = true;
  static constexpr bool kMapsTerms = true;

  LossRows<Lane> results;

  __device__ __forceinline__ Lane map_term(const Operator&, Lane term, const Constants& row) const {
    return row.unless_ignored(term * row.gradient.factor);
  }
  __device__ __forceinline__ Constants rescaled(const Operator&, Constants row, Lane factor) const {
    row.gradient.factor *= factor;
    return row;
  }
  __device__ __forceinline__ void finish(
      int64_t row, const Operator& op, const Summary& summary) const {
    finish_loss(this->targets, this->logits, results, row, summary);
  }
  __device__ __forceinline__ GradientConstants<Lane> constants(
      int64_t row, const Operator&, const Summary& summary) const {
    const auto values = cross_entropy_row(summary, Lane(0));
    return this->constants_of(row, values.max, values.log_sum);
  }
};

template <typename Lane, typename Logit>
struct CrossEntropyBackward : MapToGradient<Lane, Logit> {
  using typename MapToGradient<Lane, Logit>::Operator;
  static constexpr bool kReduces = false;
  static constexpr bool kMapsTerms = false;

  RowValues<const Lane> maxima;
  RowValues<const Lane> log_sums;

  __device__ __forceinline__ GradientConstants<Lane> constants(
      int64_t row, const Operator&, const typename Operator::Summary&) const {
    return this->constants_of(row, maxima[row], log_sums[row]);
  }
};

}  // namespace

cudaError_t launch_cross_entropy(
    const RowsProblem& problem,
    const StridedRows& logits,
    const ClassTargets& targets,
    const CrossEntropyRows& results) {
  return with_types<true>(problem.types, [&]<typename Logit, typename>() {
    using Lane = LaneOf<Logit>;
    const auto rows = input_rows<Logit>(logits);
    return launch_problem(
        problem,
        RowTask<CrossEntropyForward<Lane, Logit>, Logit, Logit, 1>{
            .per_row =
                {{targets.classes, targets.ignore_index, problem.length},
                          rows, LossRows<Lane>::of(results)},
            .inputs = {                                                   rows },
 .outputs = {                         }
    });
  });
}

cudaError_t launch_cross_entropy_with_gradient(
    const RowsProblem& problem,
    const StridedRows& logits,
    const StridedRows& target_logits,
    const ClassTargets& targets,
    const RowNumbers& grads,
    const CrossEntropyRows& results,
    void* grad_logits) {
  return with_types<true>(problem.types, [&]<typename Logit, typename>() {
    using Lane = LaneOf<Logit>;
    const auto rows = input_rows<Logit>(logits);
    const auto of_targets = input_rows<Logit>(target_logits);
    const Targets of_rows{targets.classes, targets.ignore_index, problem.length};
    return launch_problem(
        problem,
        RowTask<CrossEntropyWithGradient<Lane, Logit>, Logit, Logit, 1>{
            .per_row =
                {{of_rows, of_targets, row_values<Lane>(grads)}, LossRows<Lane>::of(results)},
            .inputs = {                                          rows                            },
            .outputs = output_rows<Logit>(problem, grad_logits)
    });
  });
}

cudaError_t launch_cross_entropy_backward(
    const RowsProblem& problem,
    const StridedRows& logits,
    const ClassTargets& targets,
    const RowNumbers& grads,
    const RowNumbers& maxima,
    const RowNumbers& log_sums,
    void* grad_logits) {
  return with_types<true>(problem.types, [&]<typename Logit, typename>() {
    using Lane = LaneOf<Logit>;
    const auto rows = input_rows<Logit>(logits);
    const Targets of_rows{targets.classes, targets.ignore_index, problem.length};
    return launch_problem(
        problem,
        RowTask<CrossEntropyBackward<Lane, Logit>, Logit, Logit, 1>{
            .per_row =
                {{of_rows, rows, row_values<Lane>(grads)},
                          row_values<Lane>(maxima),
                          row_values<Lane>(log_sums)},
            .inputs = {               input_rows<Logit>(logits) },
            .outputs = output_rows<Logit>(problem, grad_logits)
    });
  });
}

}  // namespace softmax_ext::cuda
