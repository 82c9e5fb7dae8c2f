// The maximum and log-sum of rows: what logsumexp and the cross-entropy loss are made of.

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/rows.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

template <typename In>
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
    const ColumnSummaries<vectors, In> summaries(x, logits.length, scale);
    for (int v = 0; v < vectors; ++v) {
      max.store(0, v, summaries.max[v]);
      log_sum.store(0, v, summaries.log_sum(v));
    }
  });
}

template <typename In>
void rows(const Reduction<In>& logits) {
  using Scalar = LaneOf<In>;
  if (logits.length <= kShort<Scalar>) {
    const int length = static_cast<int>(logits.length);
    Transposed<Scalar> block;
    for_each_block<Scalar>(logits.count, [&](int64_t first, int count) {
      block.read(logits.in + first * logits.in_stride, logits.in_stride, count, length);
      columns(Reduction<Scalar>{
          block.elements,
          block.kRows,
          count,
          length,
          logits.scale.from(first),
          logits.max + first,
          logits.log_sum + first});
    });
    return;
  }
  const auto nothing = [](auto...) SOFTMAX_EXT_INLINE_LAMBDA {};
  const auto keep = [&](int64_t first, int count, Lanes<Scalar> max, Lanes<Scalar> log_sum)
                        SOFTMAX_EXT_INLINE_LAMBDA {
                          store_lanes(logits.max + first, count, max);
                          store_lanes(logits.log_sum + first, count, log_sum);
                        };
  if (logits.length <= kBatchLength<Scalar>)
    with_vectors_of<Scalar>(logits.length, [&]<int vectors>(int in_last) SOFTMAX_EXT_INLINE_LAMBDA {
      reduce_short_rows<vectors>(
          logits.in, logits.in_stride, logits.count, in_last, logits.scale, nothing, keep);
    });
  else
    reduce_long_rows(
        logits.in, logits.in_stride, logits.count, logits.length, logits.scale, nothing, keep);
}

template <typename In>
Summary<In> summarize(const In* x, int64_t count, LaneOf<In> scale) {
  return row_summary(x, count, scale, x + count, [](auto...) SOFTMAX_EXT_INLINE_LAMBDA {});
}

template <typename In>
constexpr ReductionKernels<In> kernels() {
  return {rows<In>, columns<In>, summarize<In>};
}

}  // namespace

const ByType<ReductionKernels> reduction_table = {
    kernels<float>(), kernels<double>(), kernels<BFloat16>(), kernels<Float16>()};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
