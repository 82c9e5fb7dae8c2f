#pragma once
// Whole rows, each contiguous. Short ones are worked on in batches of as many rows as a vector has
// lanes, so that what is done once a row is done in lanes across the batch.

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/kernels.h"
#include "csrc/cpu/simd/spans.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {

// Lane r of the result is what `combine` makes of all lanes of vector r. Lanes are combined with
// their neighbours, then pairs with theirs, and so on.
template <int step, typename Native, int... i>
SOFTMAX_EXT_INLINE Native even_blocks(Native a, Native b, Indices<i...>) {
  return __builtin_shufflevector(
      a, b, ((i / step % 2 == 0) ? i : i - step + static_cast<int>(sizeof...(i)))...);
}
template <int step, typename Native, int... i>
SOFTMAX_EXT_INLINE Native odd_blocks(Native a, Native b, Indices<i...>) {
  return __builtin_shufflevector(
      a, b, ((i / step % 2 == 0) ? i + step : i + static_cast<int>(sizeof...(i)))...);
}
template <int step, typename L, typename Combine>
SOFTMAX_EXT_INLINE L reduced_across(const L* of_row, Combine combine) {
  if constexpr (step == 0) {
    return *of_row;
  } else {
    // Of rows `step` apart, each reduced to `step` lanes: see the order of lanes in the end.
    const L a = reduced_across<step / 2>(of_row, combine);
    const L b = reduced_across<step / 2>(of_row + step, combine);
    using All = FirstIndices<L::kCount>;
    return combine(
        L(even_blocks<step>(a.native, b.native, All())),
        L(odd_blocks<step>(a.native, b.native, All())));
  }
}
template <typename L>
SOFTMAX_EXT_INLINE L sums_across(const L (&of_row)[L::kCount]) {
  return reduced_across<L::kCount / 2>(
      of_row, [](L a, L b) SOFTMAX_EXT_INLINE_LAMBDA { return a + b; });
}
template <typename L>
SOFTMAX_EXT_INLINE L maxima_across(const L (&of_row)[L::kCount]) {
  return reduced_across<L::kCount / 2>(
      of_row, [](L a, L b) SOFTMAX_EXT_INLINE_LAMBDA { return larger(a, b); });
}

// Rows of so many elements or fewer are worked on in batches, which lie in the L1 cache.
inline constexpr int kBatchVectors = 16;
template <typename Scalar>
inline constexpr int64_t kBatchLength = kBatchVectors* Lanes<Scalar>::kCount;

// The elements of a row, in vectors.
template <typename Scalar>
struct RowVectors {
  static constexpr int kLanes = Lanes<Scalar>::kCount;

  int whole;    // vectors
  int in_last;  // elements beyond those, in one vector more if there are any

  SOFTMAX_EXT_INLINE explicit RowVectors(int64_t length)
      : whole(static_cast<int>(length / kLanes)), in_last(static_cast<int>(length % kLanes)) {}

  // body(vector, offset), and tail(vector, offset, elements) for the last if it is not whole.
  template <typename Body, typename Tail>
  SOFTMAX_EXT_INLINE void for_each(Body body, Tail tail) const {
    for (int v = 0; v < whole; ++v) body(v, v * kLanes);
    if (in_last != 0) tail(whole, whole * kLanes, in_last);
  }
};

// A batch of rows of at most kBatchLength elements. What a last vector has too much is −inf at
// first.
template <typename Scalar>
struct RowBatch {
  using L = Lanes<Scalar>;
  static constexpr int kRows = L::kCount;

  RowVectors<Scalar> shape;
  int vectors;
  Scalar elements[kRows * kBatchLength<Scalar>];

  SOFTMAX_EXT_INLINE explicit RowBatch(int64_t length)
      : shape(length), vectors(shape.whole + (shape.in_last != 0)) {}

  SOFTMAX_EXT_INLINE Scalar* row(int r) { return elements + r * (vectors * L::kCount); }

  // Reads `count` rows; the maximum of each, where NaN is skipped.
  template <typename T>
  SOFTMAX_EXT_INLINE L read(const T* from, int64_t stride, int count) {
    const L lowest(-kInfinity<Scalar>);
    L max[kRows];
    for (int r = 0; r < kRows; ++r) {
      max[r] = lowest;
      if (r >= count) continue;
      const T* const x = from + r * stride;
      Scalar* const kept = row(r);
      const auto take = [&](int offset, L logits) SOFTMAX_EXT_INLINE_LAMBDA {
        store(kept + offset, logits);
        max[r] = larger(logits, max[r]);
      };
      shape.for_each(
          [&](int, int at) SOFTMAX_EXT_INLINE_LAMBDA { take(at, load(x + at)); },
          [&](int, int at, int some)
              SOFTMAX_EXT_INLINE_LAMBDA { take(at, load_some(x + at, some, lowest)); });
    }
    return maxima_across(max);
  }

  // term(logits, r) of each vector; the sum of a row's. They take the place of the logits if kept.
  template <bool keeps, typename Term>
  SOFTMAX_EXT_INLINE L sums(int count, Term term) {
    L sum[kRows];
    for (int r = 0; r < kRows; ++r) {
      sum[r] = L(Scalar(0));
      if (r >= count) continue;
      Scalar* const kept = row(r);
      for (int v = 0; v < vectors; ++v) {
        const L of_vector = term(load(kept + v * L::kCount), r);
        sum[r] += of_vector;
        if constexpr (keeps) store(kept + v * L::kCount, of_vector);
      }
    }
    return sums_across(sum);
  }

  // Row r becomes map(elements).
  template <typename T, typename Map>
  SOFTMAX_EXT_INLINE void write(int r, T* to, Map map) {
    const Scalar* const kept = row(r);
    shape.for_each(
        [&](int, int at) SOFTMAX_EXT_INLINE_LAMBDA { store(to + at, map(load(kept + at))); },
        [&](int, int at, int some)
            SOFTMAX_EXT_INLINE_LAMBDA { store_some(to + at, map(load(kept + at)), some); });
  }
};

// A value of each row of a batch, to be had in a vector and one by one.
template <typename L>
struct BatchValues {
  typename L::Scalar of_row[L::kCount];

  SOFTMAX_EXT_INLINE explicit BatchValues(L lanes) { store(of_row, lanes); }
  SOFTMAX_EXT_INLINE L operator[](int r) const { return L(of_row[r]); }
};

// body(first row, rows) for batches.
template <typename Scalar, typename Body>
SOFTMAX_EXT_INLINE void for_each_batch(int64_t rows, Body body) {
  constexpr int kRows = Lanes<Scalar>::kCount;
  for (int64_t first = 0; first < rows; first += kRows)
    body(first, static_cast<int>(rows - first < kRows ? rows - first : kRows));
}

// log(1 + rest) of as many rows as a vector of their type has lanes.
template <typename Scalar>
SOFTMAX_EXT_INLINE Lanes<Scalar> log_sums(const double* rest) {
  if constexpr (sizeof(Scalar) == 8) {
    return logarithm_of_1_plus(load(rest));
  } else {
    constexpr int kHalf = Lanes<double>::kCount;
    return join(logarithm_of_1_plus(load(rest)), logarithm_of_1_plus(load(rest + kHalf)));
  }
}

// NaN for rows without probabilities.
template <typename L>
SOFTMAX_EXT_INLINE L defined_log_sum(L max, L log_sum) {
  const SoftmaxSummary<L> summary{max, log_sum};
  return select(summary.is_undefined(), L(kNaN<ScalarOf<L>>), log_sum);
}

template <typename T>
SOFTMAX_EXT_INLINE SoftmaxSummary<LaneOf<T>, double> row_summary(
    const T* x, int64_t length, LaneOf<T> scale) {
  return span_summary<Sum::but_maxima, true>(
      x, length, scale, [](auto...) SOFTMAX_EXT_INLINE_LAMBDA {});
}

// The maxima and log-sums of rows: body(first row, rows, maxima, log-sums) for each batch.
template <typename T, typename Body>
SOFTMAX_EXT_INLINE void reduce_rows(
    const T* in,
    int64_t stride,
    int64_t count,
    int64_t length,
    RowValues<LaneOf<T>> scale,
    Body body) {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;
  if (length <= kBatchLength<Scalar>) {
    RowBatch<Scalar> batch(length);
    for_each_batch<Scalar>(count, [&](int64_t first, int rows) SOFTMAX_EXT_INLINE_LAMBDA {
      const L max = batch.read(in + first * stride, stride, rows);
      const BatchValues<L> peak(max), base(finite_base(max)), factor(lanes_of(scale, first, rows));
      L maxima[L::kCount];
      for (L& lanes : maxima) lanes = L(Scalar(0));
      const L sum =
          batch.template sums<false>(rows, [&](L logits, int r) SOFTMAX_EXT_INLINE_LAMBDA {
            const auto is_max = logits == peak[r];
            maxima[r] += select(is_max, L(Scalar(1)), L(Scalar(0)));
            return select(is_max, L(Scalar(0)), exponential((logits - base[r]) * factor[r]));
          });
      const auto summary = OverLogits<L, L>::summary_of(max, sum, sums_across(maxima));
      body(first, rows, max, logarithm_of_1_plus(summary.rest));
    });
    return;
  }
  for_each_batch<Scalar>(count, [&](int64_t first, int rows) SOFTMAX_EXT_INLINE_LAMBDA {
    Scalar max[L::kCount] = {};
    double rest[L::kCount] = {};
    for (int r = 0; r < rows; ++r) {
      const auto summary = row_summary(in + (first + r) * stride, length, scale[first + r]);
      max[r] = summary.max;
      rest[r] = summary.rest;
    }
    body(first, rows, load(max), log_sums<Scalar>(rest));
  });
}

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
