#pragma once
// Loops of softmax, of logits and of masked ones, and of what is a softmax with another factor: an operator
// says what the terms of a row are multiplied by.

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/rows.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {  // of each file: no function of a loop is shared

template <typename Lane, typename Total>
struct Softmax {
  static constexpr bool kHasGrad = false;
  SOFTMAX_EXT_INLINE static Lane factor(Lane scale, Lane, Lane max, Total sum) {
    const SoftmaxForward<Lane, Total> op{scale};
    return op.constants(op.summary_of(max, sum, Total(0))).inverse_sum;
  }
};

// A row with +inf, of the gradient of logsumexp.
template <typename In>
void beside_infinity(
    const In* x, int64_t x_stride, In* y, int64_t y_stride, int64_t count, LaneOf<In> grad) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  bool has_nan = false;
  for (int64_t j = 0; j < count; ++j) {
    const Scalar logit = load_some(x + j * x_stride, 1, L(Scalar(0)))[0];
    has_nan |= logit != logit;
  }
  const Scalar elsewhere = has_nan ? kNaN<Scalar> : grad * 0;
  for (int64_t j = 0; j < count; ++j) {
    const Scalar logit = load_some(x + j * x_stride, 1, L(Scalar(0)))[0];
    const Scalar gradient = logit == kInfinity<Scalar> ? kNaN<Scalar> : elsewhere;
    store_some(y + j * y_stride, L(gradient), 1);
  }
}

// The terms of a row longer than registers hold are kept in the output, if that has their type.
template <typename In, typename Out>
SOFTMAX_EXT_INLINE LaneOf<In>* place_for_terms(Out* y, LaneOf<In>* scratch) {
  if constexpr (sizeof(Out) == sizeof(LaneOf<In>))
    return y;
  else
    return scratch;
}

// Whether terms are kept in the order of pairs, which their outputs are stored in.
template <typename In, typename Out>
inline constexpr bool kKeepsPairs = sizeof(Out) == 2 && kPairsAlike<In, Out>;

// `next` and `next_terms`: what comes after it.
template <typename In, typename Out>
SOFTMAX_EXT_INLINE Summary<In> summarize_before(
    Pointer<const In> next,
    LaneOf<In>* next_terms,
    Pointer<const In> x,
    LaneOf<In>* terms,
    int64_t count,
    LaneOf<In> scale) {
  return span_summary<Sum::all_terms, kKeepsPairs<In, Out>>(
      x,
      count,
      scale,
      next,
      [&](int64_t at, int some, Lanes<LaneOf<In>> term) SOFTMAX_EXT_INLINE_LAMBDA {
        __builtin_prefetch(next_terms + at, 1);
        store_lanes(terms + at, some, term);
      });
}
template <typename In, typename Out>
Summary<In> summarize(Pointer<const In> x, LaneOf<In>* terms, int64_t count, LaneOf<In> scale) {
  return summarize_before<In, Out>(x + count, terms + count, x, terms, count, scale);
}

template <typename In, typename Out>
void finish(const LaneOf<In>* terms, Out* y, int64_t count, LaneOf<In> factor) {
  using L = Lanes<LaneOf<In>>;
  constexpr int kLanes = L::kCount;
  const L product(factor);
  for_each_vector(
      count,
      kLanes,
      [&](int64_t at, auto) SOFTMAX_EXT_INLINE_LAMBDA {
        const L first = load(terms + at) * product;
        const L second = load(terms + at + kLanes) * product;
        if constexpr (kKeepsPairs<In, Out>) {
          store_pair(y + at, LanePair<Out>{first, second});
        } else {
          store(y + at, first);
          store(y + at + kLanes, second);
        }
      },
      [&](int64_t at, auto)
          SOFTMAX_EXT_INLINE_LAMBDA { store(y + at, load(terms + at) * product); },
      [&](int64_t at, int some, auto) SOFTMAX_EXT_INLINE_LAMBDA {
        store_some(y + at, load_some(terms + at, some, L(LaneOf<In>(0))) * product, some);
      });
}

template <template <typename, typename> class Operator, typename In, typename Out>
void columns(const Logits<In, Out>& logits) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  using Op = Operator<L, L>;
  for_each_tile<Scalar, kTile>(logits.count, [&]<int vectors>(int64_t first, int in_last) {
    const ColumnTile<const In, vectors> x{logits.in + first, logits.in_stride, in_last};
    const ColumnTile<Out, vectors> y{logits.out + first, logits.out_stride, in_last};
    ColumnTile<Scalar, vectors> terms{logits.scratch, vectors * L::kCount, L::kCount};
    if constexpr (sizeof(Out) == sizeof(Scalar)) terms = {y.data, y.stride, in_last};
    const bool keeps_terms = sizeof(Out) == sizeof(Scalar) || logits.length <= kKeptLength;
    L max[vectors], base[vectors], scale[vectors], grad[vectors];
    column_maxima(x, logits.length, max);
    for (int v = 0; v < vectors; ++v) base[v] = finite_base(max[v]);
    tile_lanes(logits.scale, first, in_last, scale);
    if constexpr (Op::kHasGrad) {
      tile_lanes(logits.grad, first, in_last, grad);
    }
    Total<Scalar> total[vectors];
    const auto term = [&](int64_t j, int v) SOFTMAX_EXT_INLINE_LAMBDA {
      return exponential((x.load(j, v) - base[v]) * scale[v]);
    };
    if (keeps_terms)
      column_sums(logits.length, total, [&](int64_t j, int v) SOFTMAX_EXT_INLINE_LAMBDA {
        const L kept = term(j, v);
        terms.store(j, v, kept);
        return kept;
      });
    else
      column_sums(logits.length, total, term);
    L factor[vectors];
    for (int v = 0; v < vectors; ++v)
      factor[v] = Op::factor(scale[v], grad[v], max[v], total[v].rounded());
    for (int64_t j = 0; j < logits.length; ++j)
      unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
        y.store(j, v, (keeps_terms ? terms.load(j, v) : term(j, v)) * factor[v]);
      });
    if constexpr (Op::kHasGrad) {
      for (int c = 0; c < (vectors - 1) * L::kCount + in_last; ++c)
        if (max[c / L::kCount][c % L::kCount] == kInfinity<Scalar>)
          beside_infinity(
              x.data + c, x.stride, y.data + c, y.stride, logits.length, logits.grad[first + c]);
    }
  });
}

template <int vectors, template <typename, typename> class Operator, typename In, typename Out>
SOFTMAX_EXT_INLINE void short_rows(const Logits<In, Out>& logits, int in_last) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  using Op = Operator<L, L>;
  alignas(kVectorBytes) Scalar scratch[L::kCount * vectors * L::kCount];
  for_each_batch<Scalar>(logits.count, [&](int64_t first, int count) SOFTMAX_EXT_INLINE_LAMBDA {
    const ColumnTile<const In, vectors> x{
        row_at(logits.in, first, logits.in_stride), logits.in_stride, in_last};
    const ColumnTile<Out, vectors> y{
        logits.out + first * logits.out_stride, logits.out_stride, in_last};
    ColumnTile<Scalar, vectors> terms{scratch, vectors * L::kCount, L::kCount};
    // Not where a vector is not whole: what is stored in part is slow to load again.
    if constexpr (sizeof(Out) == sizeof(Scalar))
      if (in_last == L::kCount) terms = {y.data, y.stride, in_last};
    const L max = batch_maxima(x, count);
    const L scale = lanes_of(logits.scale, first, count);
    const BatchValues<L> base(finite_base(max)), scales(scale);
    BatchVectors<L> sums(count);
    for (int r = 0; r < count; ++r) {
      L sum(Scalar(0));
      visit_row<kKeepsPairs<In, Out>>(
          x, r, -kInfinity<Scalar>, [&](auto v, L logit) SOFTMAX_EXT_INLINE_LAMBDA {
            const L term = exponential((logit - base[r]) * scales[r]);
            prefetch(x.at(r + L::kCount, v));
            __builtin_prefetch(y.at(r + L::kCount, v), 1);
            terms.store(r, v, term);
            sum += term;
          });
      sums.of_row[r] = sum;
    }
    L grad(Scalar(0));
    if constexpr (Op::kHasGrad) grad = lanes_of(logits.grad, first, count);
    const BatchValues<L> factor(Op::factor(scale, grad, max, sums.sums()));
    for (int r = 0; r < count; ++r) {
      if constexpr (Op::kHasGrad) {
        if (max[r] == kInfinity<Scalar>) {
          beside_infinity(x.at(r, 0), 1, y.at(r, 0), 1, logits.length, grad[r]);
          continue;
        }
      }
      store_row<kKeepsPairs<In, Out>>(
          y, r, [&](auto v) SOFTMAX_EXT_INLINE_LAMBDA { return terms.load(r, v) * factor[r]; });
    }
  });
}

template <template <typename, typename> class Operator, typename In, typename Out>
void rows(const Logits<In, Out>& logits) {
  using Scalar = LaneOf<In>;
  using Op = Operator<Scalar, double>;
  if (logits.length <= kShort<Scalar>) {
    as_columns(logits, [](const Logits<Scalar, Scalar>& block) { columns<Operator>(block); });
    return;
  }
  if (logits.length <= kBatchLength<Scalar>) {
    with_vectors_of<Scalar>(logits.length, [&]<int vectors>(int in_last) SOFTMAX_EXT_INLINE_LAMBDA {
      short_rows<vectors, Operator>(logits, in_last);
    });
    return;
  }
  for (int64_t row = 0; row < logits.count; ++row) {
    const auto x = row_at(logits.in, row, logits.in_stride);
    Out* const y = logits.out + row * logits.out_stride;
    const Scalar scale = logits.scale[row];
    Scalar grad = 0;
    if constexpr (Op::kHasGrad) grad = logits.grad[row];
    Scalar* const terms = place_for_terms<In>(y, logits.scratch);
    const auto summary = summarize_before<In, Out>(
        row_at(logits.in, row + 1, logits.in_stride),
        place_for_terms<In>(y + logits.out_stride, logits.scratch),
        x,
        terms,
        logits.length,
        scale);
    if constexpr (Op::kHasGrad) {
      if (summary.max == kInfinity<Scalar>) {
        beside_infinity(x, 1, y, 1, logits.length, grad);
        continue;
      }
    }
    finish<In, Out>(terms, y, logits.length, Op::factor(scale, grad, summary.max, summary.sum()));
  }
}

}  // namespace
}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
