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

// Rows of so many vectors or fewer are worked on in batches, a row's vectors by a loop that is
// unrolled.
inline constexpr int kBatchVectors = 8;
template <typename Scalar>
inline constexpr int64_t kBatchLength = kBatchVectors* Lanes<Scalar>::kCount;

// Calls body.operator()<vectors>(lanes in the last vector) for rows of at most kBatchLength elements.
template <typename Scalar, int vectors = 1, typename Body>
SOFTMAX_EXT_INLINE void with_vectors_of(int64_t length, Body body) {
  constexpr int kLanes = Lanes<Scalar>::kCount;
  if (vectors == kBatchVectors || length <= vectors * kLanes)
    body.template operator()<vectors>(static_cast<int>(length) - (vectors - 1) * kLanes);
  else if constexpr (vectors < kBatchVectors)
    with_vectors_of<Scalar, vectors + 1>(length, body);
}

// Rows of a batch are the rows of a ColumnTile. A vector of each, to be reduced to a number of each.
template <typename L>
struct BatchVectors {
  L of_row[L::kCount];

  SOFTMAX_EXT_INLINE explicit BatchVectors(int count) {
    if (count < L::kCount)
      for (L& lanes : of_row) lanes = L(typename L::Scalar(0));
  }
  SOFTMAX_EXT_INLINE L sums() const { return sums_across(of_row); }
  SOFTMAX_EXT_INLINE L maxima() const { return maxima_across(of_row); }
};

// Calls body(v, lanes) for the vectors of row r, by pairs in the order of load_pair if `in_pairs`.
template <bool in_pairs, int vectors, typename T, typename Body>
SOFTMAX_EXT_INLINE void visit_row(
    const ColumnTile<const T, vectors>& x, int64_t r, LaneOf<T> padding, Body body) {
  unrolled<vectors / 2>([&](auto half) SOFTMAX_EXT_INLINE_LAMBDA {
    const Index<2 * half> first;
    const Index<2 * half + 1> second;
    if (in_pairs && x.is_whole(second)) {
      const auto pair = load_pair(x.at(r, first));
      body(first, pair.first);
      body(second, pair.second);
    } else {
      body(first, x.load(r, first, padding));
      body(second, x.load(r, second, padding));
    }
  });
  if constexpr (vectors % 2 != 0) {
    const Index<vectors - 1> last;
    body(last, x.load(r, last, padding));
  }
}
template <typename T>
inline constexpr bool kComesInPairs = !kPairsAlike<T, float>;

// Stores value(v) as the vectors of row r, which come in that order.
template <bool in_pairs, int vectors, typename Out, typename Value>
SOFTMAX_EXT_INLINE void store_row(const ColumnTile<Out, vectors>& out, int64_t r, Value value) {
  unrolled<vectors / 2>([&](auto half) SOFTMAX_EXT_INLINE_LAMBDA {
    const Index<2 * half> first;
    const Index<2 * half + 1> second;
    if (in_pairs && out.is_whole(second)) {
      store_pair(out.at(r, first), LanePair<Out>{value(first), value(second)});
    } else {
      out.store(r, first, value(first));
      out.store(r, second, value(second));
    }
  });
  if constexpr (vectors % 2 != 0) {
    const Index<vectors - 1> last;
    out.store(r, last, value(last));
  }
}

// Row r of the result is map(lanes of each operand).
template <int vectors, typename Out, typename Map, typename... In>
SOFTMAX_EXT_INLINE void map_row(
    const ColumnTile<Out, vectors>& out,
    int64_t r,
    Map map,
    const ColumnTile<const In, vectors>&... in) {
  constexpr bool kInPairs = kComesInPairs<Out> && (kPairsAlike<Out, In> && ...);
  unrolled<vectors / 2>([&](auto half) SOFTMAX_EXT_INLINE_LAMBDA {
    const Index<2 * half> first;
    const Index<2 * half + 1> second;
    if constexpr (kInPairs) {
      if (out.is_whole(second)) {
        [&](auto... pair) SOFTMAX_EXT_INLINE_LAMBDA {
          store_pair(out.at(r, first), LanePair<Out>{map(pair.first...), map(pair.second...)});
        }(load_pair(in.at(r, first))...);
        return;
      }
    }
    out.store(r, first, map(in.load(r, first)...));
    out.store(r, second, map(in.load(r, second)...));
  });
  if constexpr (vectors % 2 != 0) {
    const Index<vectors - 1> last;
    out.store(r, last, map(in.load(r, last)...));
  }
}

// The maximum of each row, where NaN is skipped.
template <int vectors, typename T>
SOFTMAX_EXT_INLINE Lanes<LaneOf<T>> batch_maxima(const ColumnTile<const T, vectors>& x, int count) {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;
  BatchVectors<L> maxima(count);
  for (int r = 0; r < count; ++r) {
    L max(-kInfinity<Scalar>);
    visit_row<kComesInPairs<T>>(
        x, r, -kInfinity<Scalar>, [&](auto, L logits) SOFTMAX_EXT_INLINE_LAMBDA {
          max = larger(logits, max);
        });
    maxima.of_row[r] = max;
  }
  return maxima.maxima();
}

// A value of each row of a batch, to be had in a vector and one by one.
template <typename L>
struct BatchValues {
  alignas(kVectorBytes) typename L::Scalar of_row[L::kCount];

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

// seen(offset, count, terms) is called for each vector that was summed, those of a pair in the order of
// load_pair.
template <Sum kind, typename T, typename Seen>
SOFTMAX_EXT_INLINE SummaryOf<kind, T> row_summary(
    const T* x, int64_t length, LaneOf<T> scale, const T* next, Seen seen) {
  return span_summary<kind, true>(x, length, scale, next, seen);
}

// What is known of as many rows as a vector has lanes.
template <typename L>
struct RowSums {
  L max;
  L log_sum;
  L mean_distance;  // only Sum::with_distances
};

// The sums of rows of at most kBatchLength elements, as reduce_long_rows below, but seen(row, offset)
// tells of what will be read.
template <Sum kind, int vectors, typename T, typename Seen, typename Body>
SOFTMAX_EXT_INLINE void reduce_short_rows(
    const T* in,
    int64_t stride,
    int64_t count,
    int in_last,
    RowValues<LaneOf<T>> scale,
    Seen seen,
    Body body) {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;
  for_each_batch<Scalar>(count, [&](int64_t first, int rows) SOFTMAX_EXT_INLINE_LAMBDA {
    const ColumnTile<const T, vectors> x{in + first * stride, stride, in_last};
    const L max = batch_maxima(x, rows);
    const BatchValues<L> peak(max), base(finite_base(max)), factor(lanes_of(scale, first, rows));
    BatchVectors<L> sums(rows), maxima(rows), distances(rows);
    for (int r = 0; r < rows; ++r) {
      L sum(Scalar(0)), maxima_of_row(Scalar(0)), distance(Scalar(0));
      visit_row<kComesInPairs<T>>(
          x, r, -kInfinity<Scalar>, [&](auto v, L logits) SOFTMAX_EXT_INLINE_LAMBDA {
            __builtin_prefetch(x.at(r + L::kCount, v));
            seen(first + r + L::kCount, v * L::kCount);
            const L exponent = (logits - base[r]) * factor[r];
            const L term = exponential(exponent);
            if constexpr (kind == Sum::with_distances)
              distance = add_distance(distance, exponent, term);
            add_if_equal(maxima_of_row, L(Scalar(1)), logits, peak[r]);
            add_unless_equal(sum, term, logits, peak[r]);
          });
      sums.of_row[r] = sum;
      maxima.of_row[r] = maxima_of_row;
      distances.of_row[r] = distance;
    }
    const auto summary = OverLogits<L, L>::summary_of(max, sums.sums(), maxima.sums());
    RowSums<L> of_rows{max, logarithm_of_1_plus(summary.rest), max};
    if constexpr (kind == Sum::with_distances)
      of_rows.mean_distance = distances.sums() / summary.sum();
    body(first, rows, of_rows);
  });
}

// The sums of rows: body(first row, rows, RowSums) for each batch, and before it
// seen(row, offset, count, terms) for each vector of its rows.
template <Sum kind, typename T, typename Seen, typename Body>
SOFTMAX_EXT_INLINE void reduce_long_rows(
    const T* in,
    int64_t stride,
    int64_t count,
    int64_t length,
    RowValues<LaneOf<T>> scale,
    Seen seen,
    Body body) {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;
  for_each_batch<Scalar>(count, [&](int64_t first, int rows) SOFTMAX_EXT_INLINE_LAMBDA {
    Scalar max[L::kCount] = {}, mean_distance[L::kCount] = {};
    double rest[L::kCount] = {};
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r;
      const auto summary = row_summary<kind>(
          in + row * stride,
          length,
          scale[row],
          in + (row + 1) * stride,
          [&](int64_t at, int some, L term)
              SOFTMAX_EXT_INLINE_LAMBDA { seen(row, at, some, term); });
      max[r] = summary.max;
      rest[r] = summary.rest;
      if constexpr (kind == Sum::with_distances)
        mean_distance[r] = static_cast<Scalar>(summary.mean_distance());
    }
    body(first, rows, RowSums<L>{load(max), log_sums<Scalar>(rest), load(mean_distance)});
  });
}

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
