// The maximum and log-sum of rows: what logsumexp and the cross-entropy loss are made of; and with the
// mean distance from the maximum, the entropy.

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/rows.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

template <Sum kind, typename In>
void columns(const Reduction<In>& logits) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  constexpr int kHalfTile = kTile / 2;
  for_each_tile<Scalar, kHalfTile>(logits.count, [&]<int vectors>(int64_t first, int in_last) {
    const ColumnTile<const In, vectors> x{logits.in + first, logits.in_stride, in_last};
    const ColumnTile<Scalar, vectors> max{logits.max + first, 0, in_last};
    const ColumnTile<Scalar, vectors> log_sum{logits.log_sum + first, 0, in_last};
    L scale[vectors];
    tile_lanes(logits.scale, first, in_last, scale);
    const ColumnSummaries<vectors, In, kind> summaries(x, logits.length, scale);
    for (int v = 0; v < vectors; ++v) {
      max.store(0, v, summaries.max[v]);
      log_sum.store(0, v, summaries.log_sum(v));
      if constexpr (kind == Sum::with_distances) {
        const ColumnTile<Scalar, vectors> mean_distance{logits.mean_distance + first, 0, in_last};
        mean_distance.store(0, v, summaries.mean_distance(v));
      }
    }
  });
}

template <Sum kind, typename In>
void rows(const Reduction<In>& logits) {
  using Scalar = LaneOf<In>;
  if (logits.length <= kShort<Scalar>) {
    const int length = static_cast<int>(logits.length);
    Transposed<Scalar> block;
    for_each_block<Scalar>(logits.count, [&](int64_t first, int count) {
      block.read(logits.in + first * logits.in_stride, logits.in_stride, count, length);
      columns<kind>(Reduction<Scalar>{
          block.elements,
          block.kRows,
          count,
          length,
          logits.scale.from(first),
          logits.max + first,
          logits.log_sum + first,
          kind == Sum::with_distances ? logits.mean_distance + first : nullptr});
    });
    return;
  }
  const auto nothing = [](auto...) SOFTMAX_EXT_INLINE_LAMBDA {};
  const auto keep = [&](int64_t first, int count, const RowSums<Lanes<Scalar>>& sums)
                        SOFTMAX_EXT_INLINE_LAMBDA {
                          store_lanes(logits.max + first, count, sums.max);
                          store_lanes(logits.log_sum + first, count, sums.log_sum);
                          if constexpr (kind == Sum::with_distances)
                            store_lanes(logits.mean_distance + first, count, sums.mean_distance);
                        };
  if (logits.length <= kBatchLength<Scalar>)
    with_vectors_of<Scalar>(logits.length, [&]<int vectors>(int in_last) SOFTMAX_EXT_INLINE_LAMBDA {
      reduce_short_rows<kind, vectors>(
          logits.in, logits.in_stride, logits.count, in_last, logits.scale, nothing, keep);
    });
  else
    reduce_long_rows<kind>(
        logits.in, logits.in_stride, logits.count, logits.length, logits.scale, nothing, keep);
}

template <Sum kind, typename In>
SummaryOf<kind, In> summarize(const In* x, int64_t count, LaneOf<In> scale) {
  return row_summary<kind>(x, count, scale, x + count, [](auto...) SOFTMAX_EXT_INLINE_LAMBDA {});
}

template <template <typename> class Kernels, Sum kind>
constexpr ByType<Kernels> table() {
  const auto kernels = []<typename In>(In) {
    return Kernels<In>{rows<kind, In>, columns<kind, In>, summarize<kind, In>};
  };
  return {kernels(float()), kernels(double()), kernels(BFloat16()), kernels(Float16())};
}

}  // namespace

const ByType<ReductionKernels> reduction_table = table<ReductionKernels, Sum::but_maxima>();
const ByType<EntropyKernels> entropy_table = table<EntropyKernels, Sum::with_distances>();

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
