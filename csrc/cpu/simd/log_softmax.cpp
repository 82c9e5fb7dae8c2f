// log_softmax.

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/rows.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

template <typename In, typename Out>
void finish(
    const In* x, Out* y, int64_t count, LaneOf<In> max, LaneOf<In> scale, LaneOf<In> log_sum) {
  using L = Lanes<LaneOf<In>>;
  const LogSoftmaxForward<L> op{{L(scale)}};
  map_span(
      count,
      y,
      [&](L logit) SOFTMAX_EXT_INLINE_LAMBDA {
        return op.usual_map(logit, {L(max), L(log_sum)});
      },
      x);
}

template <typename In, typename Out>
void columns(const Logits<In, Out>& logits) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  constexpr int kHalfTile = kTile / 2;
  for_each_tile<Scalar, kHalfTile>(logits.count, [&]<int vectors>(int64_t first, int in_last) {
    const ColumnTile<const In, vectors> x{logits.in + first, logits.in_stride, in_last};
    const ColumnTile<Out, vectors> y{logits.out + first, logits.out_stride, in_last};
    L scale[vectors], log_sum[vectors];
    tile_lanes(logits.scale, first, in_last, scale);
    const ColumnSummaries<vectors, In> summaries(x, logits.length, scale);
    for (int v = 0; v < vectors; ++v)
      log_sum[v] = defined_log_sum(summaries.max[v], summaries.log_sum(v));
    for (int64_t j = 0; j < logits.length; ++j)
      unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
        const LogSoftmaxForward<L> op{{scale[v]}};
        y.store(j, v, op.usual_map(x.load(j, v), {summaries.max[v], log_sum[v]}));
      });
  });
}

template <typename In, typename Out>
void rows(const Logits<In, Out>& logits) {
  using Scalar = LaneOf<In>;
  if (logits.length <= kShort<Scalar>) {
    as_columns(logits, [](const Logits<Scalar, Scalar>& block) { columns(block); });
    return;
  }
  using L = Lanes<Scalar>;
  const auto seen = [&](int64_t row, int64_t at, auto...) SOFTMAX_EXT_INLINE_LAMBDA {
    __builtin_prefetch(logits.out + row * logits.out_stride + at, 1);
  };
  if (logits.length <= kBatchLength<Scalar>) {
    with_vectors_of<Scalar>(logits.length, [&]<int vectors>(int in_last) SOFTMAX_EXT_INLINE_LAMBDA {
      const ColumnTile<const In, vectors> x{logits.in, logits.in_stride, in_last};
      const ColumnTile<Out, vectors> y{logits.out, logits.out_stride, in_last};
      reduce_short_rows<Sum::but_maxima, vectors>(
          logits.in,
          logits.in_stride,
          logits.count,
          in_last,
          logits.scale,
          seen,
          [&](int64_t first, int count, const RowSums<L>& sums) SOFTMAX_EXT_INLINE_LAMBDA {
            const BatchValues<L> peak(sums.max), log_sums(defined_log_sum(sums.max, sums.log_sum));
            for (int r = 0; r < count; ++r) {
              const LogSoftmaxForward<L> op{{L(logits.scale[first + r])}};
              map_row(
                  y,
                  first + r,
                  [&](L logit) SOFTMAX_EXT_INLINE_LAMBDA {
                    return op.usual_map(logit, {peak[r], log_sums[r]});
                  },
                  x);
            }
          });
    });
    return;
  }
  reduce_long_rows<Sum::but_maxima>(
      logits.in,
      logits.in_stride,
      logits.count,
      logits.length,
      logits.scale,
      seen,
      [&](int64_t first, int count, const RowSums<L>& sums) SOFTMAX_EXT_INLINE_LAMBDA {
        const L defined = defined_log_sum(sums.max, sums.log_sum);
        for (int r = 0; r < count; ++r) {
          const int64_t row = first + r;
          finish(
              logits.in + row * logits.in_stride,
              logits.out + row * logits.out_stride,
              logits.length,
              sums.max[r],
              logits.scale[row],
              defined[r]);
        }
      });
}

template <typename In, typename Out>
constexpr LogSoftmaxKernels<In, Out> kernels() {
  return {rows<In, Out>, columns<In, Out>, finish<In, Out>};
}

}  // namespace

const ByTypes<LogSoftmaxKernels> log_softmax_table = {
    kernels<float, float>(),
    kernels<double, double>(),
    kernels<BFloat16, BFloat16>(),
    kernels<Float16, Float16>(),
    kernels<BFloat16, float>(),
    kernels<Float16, float>()};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
