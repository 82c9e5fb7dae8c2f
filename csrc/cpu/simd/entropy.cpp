// The gradient of the entropy. (An entropy itself is made of what reduction.cpp yields.)

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/rows.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

// What the gradients of a row depend on, in all lanes; or of as many columns as there are lanes.
template <typename L>
struct EntropyGradient {
  L base;
  L scale;
  L mean_distance;
  L factor;

  EntropyGradient() = default;
  SOFTMAX_EXT_INLINE EntropyGradient(L max, L scale_, L mean_distance_, L factor_)
      : base(finite_base(max)), scale(scale_), mean_distance(mean_distance_), factor(factor_) {}

  SOFTMAX_EXT_INLINE L operator()(L logit) const {
    const L lowest(ExpConstants<typename L::Scalar>::kLowest);
    const L exponent = (logit - base) * scale;
    return exponential(exponent) * (-larger(lowest, exponent) - mean_distance) * factor;
  }
};

template <typename L>
SOFTMAX_EXT_INLINE L factor_of(L max, L log_sum, L grad, L scale) {
  return exponential(-defined_log_sum(max, log_sum)) * grad * scale;
}

template <typename In>
void finish(
    const In* x,
    In* y,
    int64_t count,
    LaneOf<In> scale,
    const typename EntropyBackward<LaneOf<In>>::Constants& row) {
  using L = Lanes<LaneOf<In>>;
  map_span(
      count, y, EntropyGradient<L>(L(row.max), L(scale), L(row.mean_distance), L(row.factor)), x);
}

template <typename In>
void columns(const Logits<In, In>& logits) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  constexpr int kHalfTile = kTile / 2;
  for_each_tile<Scalar, kHalfTile>(logits.count, [&]<int vectors>(int64_t first, int in_last) {
    const ColumnTile<const In, vectors> x{logits.in + first, logits.in_stride, in_last};
    const ColumnTile<In, vectors> y{logits.out + first, logits.out_stride, in_last};
    L scale[vectors], grad[vectors];
    tile_lanes(logits.scale, first, in_last, scale);
    tile_lanes(logits.grad, first, in_last, grad);
    const ColumnSummaries<vectors, In, Sum::with_distances> sums(x, logits.length, scale);
    EntropyGradient<L> of_column[vectors];
    for (int v = 0; v < vectors; ++v)
      of_column[v] = {
          sums.max[v],
          scale[v],
          sums.mean_distance(v),
          factor_of(sums.max[v], sums.log_sum(v), grad[v], scale[v])};
    for (int64_t j = 0; j < logits.length; ++j)
      unrolled<vectors>(
          [&](auto v) SOFTMAX_EXT_INLINE_LAMBDA { y.store(j, v, of_column[v](x.load(j, v))); });
  });
}

template <typename In>
void rows(const Logits<In, In>& logits) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  if (logits.length <= kShort<Scalar>) {
    as_columns(logits, [](const Logits<Scalar, Scalar>& block) { columns(block); });
    return;
  }
  const auto seen = [&](int64_t row, int64_t at, auto...) SOFTMAX_EXT_INLINE_LAMBDA {
    __builtin_prefetch(logits.out + row * logits.out_stride + at, 1);
  };
  // map_row(row, gradient) for the rows of a batch.
  const auto of_batch = [&](int64_t first,
                            int count,
                            const RowSums<L>& sums,
                            auto map_row) SOFTMAX_EXT_INLINE_LAMBDA {
    const L scale = lanes_of(logits.scale, first, count);
    const L grad = lanes_of(logits.grad, first, count);
    const BatchValues<L> max(sums.max), scales(scale), mean_distance(sums.mean_distance),
        factor(factor_of(sums.max, sums.log_sum, grad, scale));
    for (int r = 0; r < count; ++r)
      map_row(first + r, EntropyGradient<L>(max[r], scales[r], mean_distance[r], factor[r]));
  };
  if (logits.length <= kBatchLength<Scalar>) {
    with_vectors_of<Scalar>(logits.length, [&]<int vectors>(int in_last) SOFTMAX_EXT_INLINE_LAMBDA {
      const ColumnTile<const In, vectors> x{logits.in, logits.in_stride, in_last};
      const ColumnTile<In, vectors> y{logits.out, logits.out_stride, in_last};
      reduce_short_rows<Sum::with_distances, vectors>(
          logits.in,
          logits.in_stride,
          logits.count,
          in_last,
          logits.scale,
          seen,
          [&](int64_t first, int count, const RowSums<L>& sums) SOFTMAX_EXT_INLINE_LAMBDA {
            of_batch(
                first,
                count,
                sums,
                [&](int64_t row, const EntropyGradient<L>& gradient)
                    SOFTMAX_EXT_INLINE_LAMBDA { map_row(y, row, gradient, x); });
          });
    });
    return;
  }
  reduce_long_rows<Sum::with_distances>(
      logits.in,
      logits.in_stride,
      logits.count,
      logits.length,
      logits.scale,
      seen,
      [&](int64_t first, int count, const RowSums<L>& sums) SOFTMAX_EXT_INLINE_LAMBDA {
        of_batch(
            first,
            count,
            sums,
            [&](int64_t row, const EntropyGradient<L>& gradient) SOFTMAX_EXT_INLINE_LAMBDA {
              map_span(
                  logits.length,
                  logits.out + row * logits.out_stride,
                  gradient,
                  logits.in + row * logits.in_stride);
            });
      });
}

template <typename In>
constexpr EntropyBackwardKernels<In> kernels() {
  return {rows<In>, columns<In>, finish<In>};
}

}  // namespace

const ByType<EntropyBackwardKernels> entropy_backward_table = {
    kernels<float>(), kernels<double>(), kernels<BFloat16>(), kernels<Float16>()};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
