// The gradient of the cross-entropy loss. (A loss alone is made of what reduction.cpp yields.)

#include "csrc/numerics/cross_entropy.h"

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/rows.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

template <typename In>
void reduce(const Reduction<In>& logits, LaneOf<In>* terms, int64_t stride) {
  using L = Lanes<LaneOf<In>>;
  reduce_long_rows<Sum::but_maxima>(
      logits.in,
      logits.in_stride,
      logits.count,
      logits.length,
      logits.scale,
      [&](int64_t row, int64_t at, int some, L term)
          SOFTMAX_EXT_INLINE_LAMBDA { store_lanes(terms + row * stride + at, some, term); },
      [&](int64_t first, int count, const RowSums<L>& sums) SOFTMAX_EXT_INLINE_LAMBDA {
        store_lanes(logits.max + first, count, sums.max);
        store_lanes(logits.log_sum + first, count, sums.log_sum);
      });
}

template <typename In>
Summary<In> summarize(const In* x, LaneOf<In>* terms, int64_t count) {
  return row_summary<Sum::but_maxima>(
      x,
      count,
      LaneOf<In>(1),
      x + count,
      [&](int64_t at, int some, Lanes<LaneOf<In>> term)
          SOFTMAX_EXT_INLINE_LAMBDA { store_lanes(terms + at, some, term); });
}

template <typename In>
void rows(const CrossEntropyGradients<In>& gradients) {
  using L = Lanes<LaneOf<In>>;
  if (gradients.length <= kBatchLength<LaneOf<In>>) {
    with_vectors_of<LaneOf<In>>(
        gradients.length, [&]<int vectors>(int in_last) SOFTMAX_EXT_INLINE_LAMBDA {
          const ColumnTile<const In, vectors> x{gradients.in, gradients.in_stride, in_last};
          const ColumnTile<In, vectors> dx{gradients.out, gradients.out_stride, in_last};
          for (int64_t row = 0; row < gradients.count; ++row) {
            const L max(gradients.max[row]), factor(gradients.factor[row]);
            map_row(
                dx,
                row,
                [&](L logit)
                    SOFTMAX_EXT_INLINE_LAMBDA { return exponential(logit - max) * factor; },
                x);
          }
        });
    return;
  }
  for (int64_t row = 0; row < gradients.count; ++row) {
    const L max(gradients.max[row]), factor(gradients.factor[row]);
    map_span(
        gradients.length,
        gradients.out + row * gradients.out_stride,
        [&](L logit) SOFTMAX_EXT_INLINE_LAMBDA { return exponential(logit - max) * factor; },
        gradients.in + row * gradients.in_stride);
  }
}

template <typename In>
void columns(const CrossEntropyGradients<In>& gradients) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  for_each_tile<Scalar, kTile>(gradients.count, [&]<int vectors>(int64_t first, int in_last) {
    const ColumnTile<const In, vectors> x{gradients.in + first, gradients.in_stride, in_last};
    const ColumnTile<In, vectors> dx{gradients.out + first, gradients.out_stride, in_last};
    L max[vectors], factor[vectors];
    tile_lanes(gradients.max, first, in_last, max);
    tile_lanes(gradients.factor, first, in_last, factor);
    for (int64_t j = 0; j < gradients.length; ++j)
      unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
        dx.store(j, v, exponential(x.load(j, v) - max[v]) * factor[v]);
      });
  });
}

template <typename Scalar>
void constants(
    int64_t count,
    const Scalar* max,
    const Scalar* log_sum,
    const Scalar* grad,
    Scalar* factor,
    Scalar* true_class) {
  using L = Lanes<Scalar>;
  const auto some_constants = [&](int64_t at, int some) SOFTMAX_EXT_INLINE_LAMBDA {
    const L none(Scalar(0));
    const L sum = load_some(log_sum + at, some, none);
    const L upstream = quieted(load_some(grad + at, some, none));
    const L distance =
        (load_some(true_class + at, some, none) - load_some(max + at, some, none)) - sum;
    store_some(factor + at, exponential(-sum) * upstream, some);
    store_some(true_class + at, exponential_minus_1(distance) * upstream, some);
  };
  for (int64_t at = 0; at < count; at += L::kCount)
    some_constants(at, static_cast<int>(count - at < L::kCount ? count - at : L::kCount));
}

template <typename In>
constexpr CrossEntropyKernels<In> kernels() {
  return {reduce<In>, summarize<In>, rows<In>, columns<In>, constants<LaneOf<In>>};
}

}  // namespace

const ByType<CrossEntropyKernels> cross_entropy_table = {
    kernels<float>(), kernels<double>(), kernels<BFloat16>(), kernels<Float16>()};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
