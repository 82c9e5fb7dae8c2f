// The cross-entropy loss with options. A team of threads takes a row: one thread where the elements of rows
// are apart or few, a warp, or a block. It reads the row for the summary, and where the gradient is wanted a
// second time, from the cache.

#include <cub/block/block_reduce.cuh>

#include "csrc/numerics/cross_entropy.h"
#include "cuda/losses.h"
#include "cuda/merge.cuh"
#include "cuda/problem.cuh"

namespace softmax_ext::cuda {
namespace {

constexpr int kBlockThreads = 256;

// Columns that a thread takes at a time. One thread alone has few neighbours to read together, and what it
// holds spills beyond 4.
template <int threads, typename Logit>
inline constexpr int kColumnsAtOnce =
    threads == 1 && kVectorElements<Logit> > 4 ? 4 : kVectorElements<Logit>;

template <typename Logit>
struct WeightedLossTask {
  using Lane = LaneOf<Logit>;

  RowPointers<const Logit> logits;
  const int64_t* classes;  // or probabilities
  int64_t ignore_index;
  RowPointers<const Lane> probabilities;
  const Lane* weights;
  const Lane* weights_sum;
  ClassWeights<Lane> of_classes;
  Lane share;  // of the target, 1 − e
  Lane softcap;
  Lane z_loss;
  bool is_part;
  RowScales<Lane> scales;
  bool reduces;  // else maxima and log_sums are there already
  Lane* losses;
  Lane* maxima;
  Lane* log_sums;
  Lane* logsumexps;
  Lane* weights_of_rows;         // Σ q; or null
  RowPointers<Logit> gradients;  // null data: not wanted
  RowValues<const Lane> grads;
  RowValues<const Lane> grad_logsumexps;

  __device__ __forceinline__ bool is_ignored(int64_t row) const {
    return classes != nullptr && classes[row] == ignore_index;
  }
  __device__ __forceinline__ bool is_elsewhere(int64_t row) const {
    return is_part && classes != nullptr && classes[row] == -1;
  }
  // In range or −1, whatever the target is; it was checked by what reduces.
  __device__ __forceinline__ int64_t column(int64_t row, int64_t length) const {
    if (classes == nullptr || is_elsewhere(row)) return -1;
    return 0 <= classes[row] && classes[row] < length ? classes[row] : 0;
  }
  __device__ __forceinline__ Lane weight(int64_t column) const {
    return weights == nullptr ? Lane(1) : weights[column];
  }
  __device__ __forceinline__ Lane capped(Lane logit) const {
    return softcap == 0 ? logit : ::tanh(logit / softcap) * softcap;
  }
  __device__ __forceinline__ bool has_spread() const { return !of_classes.are_zero(); }
};

// The lanes of the columns [first, first + count) of a row, −inf beyond its end.
template <typename Logit, int count>
struct RowLanes {
  using Lane = LaneOf<Logit>;
  Lane lanes[count];

  __device__ __forceinline__
  RowLanes(const WeightedLossTask<Logit>& task, const Logit* row, int64_t first, int64_t length) {
    const int64_t stride = task.logits.length_stride;
    const Logit* const from = row + first * stride;
    if constexpr (count == kVectorElements<Logit>) {
      if (stride == 1 && first + count <= length && misalignment(from) == 0) {
        const auto pack = load_pack<Logit, count>(from);
        SOFTMAX_EXT_UNROLL
        for (int j = 0; j < count; ++j) lanes[j] = task.capped(pack.lane(j));
        return;
      }
    }
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < count; ++j)
      lanes[j] = first + j < length ? task.capped(to_lane(from[j * stride])) : -kInfinity<Lane>;
  }
  __device__ __forceinline__ Lane operator[](int j) const { return lanes[j]; }
};

// u of a column.
template <typename Logit>
__device__ __forceinline__ LaneOf<Logit> spread_at(
    const WeightedLossTask<Logit>& task, const LaneOf<Logit>* probabilities, int64_t column) {
  using Lane = LaneOf<Logit>;
  const Lane probability =
      probabilities == nullptr ? Lane(0) : probabilities[column * task.probabilities.length_stride];
  return task.of_classes(task.weight(column), probability);
}

// The summary of what one thread reads of a row; without `reduces`, Σ u alone.
template <int threads, typename Logit>
__device__ __forceinline__ WeightedSummary<LaneOf<Logit>> summarize_share(
    const WeightedLossTask<Logit>& task,
    int64_t row,
    int64_t length,
    int thread,
    LaneOf<Logit> scale) {
  using Lane = LaneOf<Logit>;
  constexpr int kPack = kColumnsAtOnce<threads, Logit>;
  const Logit* const logits = task.logits[row];
  const Lane* const probabilities = task.classes == nullptr ? task.probabilities[row] : nullptr;
  auto summary = WeightedSummary<Lane>::empty();
  for (int64_t first = int64_t(thread) * kPack; first < length; first += threads * kPack) {
    auto of_pack = WeightedSummary<Lane>::empty();
    if (task.reduces) {
      const RowLanes<Logit, kPack> lanes(task, logits, first, length);
      of_pack.logits = summarize_logits<Lane, Lane>(lanes, kPack, scale);
      if (task.has_spread()) {
        SOFTMAX_EXT_UNROLL
        for (int j = 0; j < kPack; ++j) {
          if (first + j >= length) continue;
          const Lane u = spread_at(task, probabilities, first + j);
          of_pack.distance +=
              weighted_distance(u, scaled_distance(lanes[j], of_pack.logits.max, scale));
          of_pack.spread += u;
        }
      }
    } else {
      SOFTMAX_EXT_UNROLL
      for (int j = 0; j < kPack; ++j)
        if (first + j < length) of_pack.spread += spread_at(task, probabilities, first + j);
    }
    summary = merge(summary, of_pack, scale);
  }
  return summary;
}

// Every thread of the team receives the merged summary. What all of them read before, none writes before
// all have.
template <int threads, typename Lane>
__device__ __forceinline__ WeightedSummary<Lane> merge_in_team(
    WeightedSummary<Lane> mine, Lane scale) {
  const auto combine = [scale](const WeightedSummary<Lane>& a, const WeightedSummary<Lane>& b) {
    return merge(a, b, scale);
  };
  if constexpr (threads == 1) {
    return mine;
  } else if constexpr (threads <= simt::kWarpLanes) {
    mine = combine_lanes<threads>(mine, combine);
    simt::sync_warp();
    return mine;
  } else {
    using Reduce =
        cub::BlockReduce<WeightedSummary<Lane>, threads, cub::BLOCK_REDUCE_WARP_REDUCTIONS>;
    auto& of_row = simt::shared<WeightedSummary<Lane>>();
    simt::sync_block();  // the last row's summary has been read
    const auto all = Reduce(simt::shared<typename Reduce::TempStorage>()).Reduce(mine, combine);
    if (simt::thread_index() == 0) of_row = all;
    simt::sync_block();
    return of_row;
  }
}

template <int threads, typename Logit>
__device__ __forceinline__ void visit_row(
    const WeightedLossTask<Logit>& task, int64_t row, int64_t length, bool is_row) {
  using Lane = LaneOf<Logit>;
  constexpr int kPack = kColumnsAtOnce<threads, Logit>;
  const int thread = simt::thread_index() % threads;
  const Lane scale = task.scales[row];
  const bool is_ignored = task.is_ignored(row);
  const int64_t target = task.column(row, length);
  if (task.reduces && task.classes != nullptr && is_row)
    simt::require(
        is_ignored || task.is_elsewhere(row) ||
            (0 <= task.classes[row] && task.classes[row] < length),
        "cross_entropy: expected targets in [0, classes) or ignore_index");
  const Lane target_logit =
      target < 0 || !is_row  // no row of padding reads what another may write
          ? Lane(0)
          : task.capped(to_lane(task.logits[row][target * task.logits.length_stride]));
  auto summary = WeightedSummary<Lane>::empty();
  if (task.reduces || (task.classes == nullptr && task.has_spread()))
    summary = merge_in_team<threads>(
        summarize_share<threads>(task, row, is_row ? length : 0, thread, scale), scale);
  if (!is_row) return;

  WeightedLossRow<Lane> values{
      .max = task.reduces ? summary.logits.max : task.maxima[row],
      .log_sum = task.reduces ? summary.logits.log_sum() : task.log_sums[row],
      .scale = scale,
      .spread = task.classes == nullptr   ? summary.spread
                : !task.has_spread()      ? Lane(0)  // whatever a class weighs that no row has
                : task.weights == nullptr ? task.of_classes.uniform * Lane(length)
                                          : task.of_classes.uniform * *task.weights_sum,
      .distance = summary.distance,
      .peak = 0,
      .target_distance = 0};
  if (target >= 0 && !is_ignored) {
    values.peak = task.share * task.weight(target);
    values.target_distance = scaled_distance(target_logit, values.max, scale);
  }
  const Lane logsumexp = values.logsumexp();
  const Lane log_sum_of_part = values.log_sum;
  if (summary.logits.is_undefined() && task.reduces) values.log_sum = kNaN<Lane>;
  if (scale != scale) values.log_sum = kNaN<Lane>;
  if (task.reduces && thread == 0) {
    task.losses[row] = is_ignored ? Lane(0) : values.loss(task.z_loss);
    task.maxima[row] = is_ignored ? Lane(0) : values.max;
    task.log_sums[row] = is_ignored ? Lane(0) : task.is_part ? log_sum_of_part : values.log_sum;
    if (task.weights_of_rows != nullptr)
      task.weights_of_rows[row] = is_ignored ? Lane(0) : values.spread + values.peak;
    if (task.logsumexps != nullptr) task.logsumexps[row] = is_ignored ? Lane(0) : logsumexp;
  }
  if (task.gradients.data == nullptr) return;

  const Lane of_logsumexp =
      task.grad_logsumexps.data == nullptr ? Lane(0) : task.grad_logsumexps[row];
  const Lane target_weight = target < 0 ? Lane(0) : task.weight(target) * task.of_classes.uniform;
  const auto gradient = weighted_gradient(
      values, gradient_scale(scale), task.z_loss, task.grads[row], of_logsumexp, target_weight);
  const Lane* const probabilities = task.classes == nullptr ? task.probabilities[row] : nullptr;
  const Logit* const logits = task.logits[row];
  Logit* const out = task.gradients[row];
  const int64_t stride = task.gradients.length_stride;
  for (int64_t first = int64_t(thread) * kPack; first < length; first += threads * kPack) {
    const RowLanes<Logit, kPack> lanes(task, logits, first, length);
    const auto mapped = [&](int j) {
      const int64_t column = first + j;
      if (is_ignored || column >= length) return Lane(0);
      const Lane logit = lanes[j];
      Lane of_logit = exponential(scaled_distance(logit, values.max, scale)) * gradient.factor;
      if (task.has_spread()) of_logit -= spread_at(task, probabilities, column) * gradient.share;
      if (column == target) of_logit = gradient.true_class;
      if (task.softcap == 0) return of_logit;
      const Lane slope = logit / task.softcap;
      return of_logit * (1 - slope * slope);
    };
    Logit* const to = out + first * stride;
    if constexpr (kPack == kVectorElements<Logit>) {
      if (stride == 1 && first + kPack <= length && misalignment(to) == 0) {
        store_pack(to, Pack<Logit, kPack>::from_lanes(mapped));
        continue;
      }
    }
    SOFTMAX_EXT_UNROLL
    for (int j = 0; j < kPack; ++j)
      if (first + j < length) to[j * stride] = from_lane<Logit>(mapped(j));
  }
}

// Rows beyond the last are padding: all lanes of a warp take part in each shuffle.
template <int threads, typename Logit>
__global__ void __launch_bounds__(kBlockThreads, 2) weighted_loss_kernel(
    const __grid_constant__ WeightedLossTask<Logit> task, int64_t rows, int64_t length) {
  constexpr int kRowsPerBlock = kBlockThreads / threads;
  for (int64_t base = simt::block_index() * kRowsPerBlock; base < rows;
       base += simt::block_count() * kRowsPerBlock) {
    const int64_t row = base + simt::thread_index() / threads;
    visit_row<threads>(task, row < rows ? row : base, length, row < rows);
  }
}

template <int threads, typename Logit>
cudaError_t launch(const RowsProblem& problem, const WeightedLossTask<Logit>& task) {
  constexpr int kRowsPerBlock = kBlockThreads / threads;
  const int64_t rows = problem.outer * problem.inner;
  return launch_blocks<weighted_loss_kernel<threads, Logit>>(
      {.blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock, .threads_per_block = kBlockThreads},
      problem.stream,
      task,
      rows,
      problem.length);
}

cudaError_t launch_loss(
    const RowsProblem& problem,
    const StridedRows& logits,
    const WeightedLoss& loss,
    const WeightedLossResults& results,
    const LossGradients& grads,
    void* grad_logits,
    bool reduces) {
  return with_types<true>(problem.types, [&]<typename Logit, typename>() {
    using Lane = LaneOf<Logit>;
    const bool are_classes = loss.classes.classes != nullptr;
    const double share = 1 - loss.label_smoothing;
    const WeightedLossTask<Logit> task{
        .logits = input_rows<Logit>(logits),
        .classes = loss.classes.classes,
        .ignore_index = loss.classes.ignore_index,
        .probabilities = input_rows<Lane>(loss.probabilities),
        .weights = static_cast<const Lane*>(loss.weights),
        .weights_sum = static_cast<const Lane*>(loss.weights_sum),
        .of_classes =
            {static_cast<Lane>(are_classes ? 0 : share),
                         static_cast<Lane>(loss.label_smoothing / static_cast<double>(loss.all_classes))},
        .share = static_cast<Lane>(share),
        .softcap = static_cast<Lane>(loss.softcap),
        .z_loss = static_cast<Lane>(loss.z_loss),
        .is_part = loss.is_part,
        .scales = row_scales<Lane>(problem.temperatures),
        .reduces = reduces,
        .losses = static_cast<Lane*>(results.rows.losses),
        .maxima = static_cast<Lane*>(results.rows.maxima),
        .log_sums = static_cast<Lane*>(results.rows.log_sums),
        .logsumexps = static_cast<Lane*>(results.logsumexps),
        .weights_of_rows = static_cast<Lane*>(results.weights),
        .gradients = output_rows<Logit>(problem, grad_logits),
        .grads = row_values<Lane>(grads.losses),
        .grad_logsumexps = row_values<Lane>(grads.logsumexps)
    };
    // One thread for a row whose neighbours are those of other threads' rows, or that is short.
    if (problem.inner > 1 || problem.length <= 32) return launch<1>(problem, task);
    if (problem.length <= 1024) return launch<simt::kWarpLanes>(problem, task);
    return launch<kBlockThreads>(problem, task);
  });
}

}  // namespace

cudaError_t launch_weighted_loss(
    const RowsProblem& problem,
    const StridedRows& logits,
    const WeightedLoss& loss,
    const WeightedLossResults& results,
    const LossGradients& grads,
    void* grad_logits) {
  return launch_loss(problem, logits, loss, results, grads, grad_logits, /*reduces=*/true);
}

cudaError_t launch_weighted_loss_backward(
    const RowsProblem& problem,
    const StridedRows& logits,
    const WeightedLoss& loss,
    const CrossEntropyRows& rows,
    const LossGradients& grads,
    void* grad_logits) {
  return launch_loss(problem, logits, loss, {rows, nullptr}, grads, grad_logits, /*reduces=*/false);
}

}  // namespace softmax_ext::cuda
