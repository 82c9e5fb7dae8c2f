#pragma once
// Rows whose neighbours are contiguous: lanes lie across rows, and no sum is made across lanes.

#include <type_traits>

#include "csrc/cpu/simd/kernels.h"
#include "csrc/cpu/simd/spans.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {

// Vectors of columns worked on at once, as registers allow.
inline constexpr int kTile = kVectorBytes == 64 ? 8 : 4;
static_assert(kTile * Lanes<float>::kCount <= kColumns);

// Columns [first, first + vectors · lanes) of a matrix whose rows are `stride` apart; of the last
// vector only `in_last` exist.
template <typename T, int vectors>
struct ColumnTile {
  using Scalar = LaneOf<std::remove_const_t<T>>;
  using L = Lanes<Scalar>;

  Pointer<T> data;
  int64_t stride;
  int in_last;

  SOFTMAX_EXT_INLINE bool is_whole(int v) const { return v + 1 < vectors || in_last == L::kCount; }
  SOFTMAX_EXT_INLINE Pointer<T> at(int64_t j, int v) const {
    return row_at(data, j, stride) + v * L::kCount;
  }
  SOFTMAX_EXT_INLINE L load(int64_t j, int v, Scalar padding = 0) const {
    const auto from = at(j, v);
    return is_whole(v) ? SOFTMAX_EXT_LEVEL::load(from) : load_some(from, in_last, L(padding));
  }
  SOFTMAX_EXT_INLINE void store(int64_t j, int v, L lanes) const {
    const auto to = at(j, v);
    if (is_whole(v))
      SOFTMAX_EXT_LEVEL::store(to, lanes);
    else
      store_some(to, lanes, in_last);
  }
};

// Calls body.operator()<vectors>(first column, lanes in the last vector) for all columns.
template <typename Scalar, int tile, typename Body>
SOFTMAX_EXT_INLINE void for_each_tile(int64_t count, Body body) {
  constexpr int kLanes = Lanes<Scalar>::kCount;
  int64_t first = 0;
  for (; first + tile * kLanes <= count; first += tile * kLanes)
    body.template operator()<tile>(first, kLanes);
  for (; first < count; first += kLanes)
    body.template operator()<1>(
        first, static_cast<int>(count - first < kLanes ? count - first : kLanes));
}

template <typename Scalar>
SOFTMAX_EXT_INLINE Lanes<Scalar> lanes_of(RowValues<Scalar> values, int64_t first, int count) {
  using L = Lanes<Scalar>;
  if (values.stride == 0) return L(values.data[0]);
  return load_some(values.data + first, count, L(Scalar(0)));
}

// Those of a tile.
template <int vectors, typename Scalar>
SOFTMAX_EXT_INLINE void tile_lanes(
    RowValues<Scalar> values, int64_t first, int in_last, Lanes<Scalar> (&lanes)[vectors]) {
  constexpr int kLanes = Lanes<Scalar>::kCount;
  unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
    lanes[v] = lanes_of(values, first + v * kLanes, v + 1 < vectors ? kLanes : in_last);
  });
}

template <int vectors, typename T>
SOFTMAX_EXT_INLINE void column_maxima(
    const ColumnTile<const T, vectors>& x, int64_t length, Lanes<LaneOf<T>> (&max)[vectors]) {
  using L = Lanes<LaneOf<T>>;
  for (L& lanes : max) lanes = L(-kInfinity<LaneOf<T>>);
  for (int64_t j = 0; j < length; ++j)
    unrolled<vectors>([&](auto v)
                          SOFTMAX_EXT_INLINE_LAMBDA { max[v] = larger(x.load(j, v), max[v]); });
}

// Adds Σ term(j, v) of each column: in blocks, added up in double. after_block() follows each.
template <int vectors, typename Scalar, typename Term, typename AfterBlock>
SOFTMAX_EXT_INLINE void add_column_sums(
    int64_t length, Total<Scalar> (&total)[vectors], Term term, AfterBlock after_block) {
  constexpr int64_t kColumnBlock = 32;
  using L = Lanes<Scalar>;
  for (int64_t begin = 0; begin < length; begin += kColumnBlock) {
    const int64_t end = length - begin < kColumnBlock ? length : begin + kColumnBlock;
    L sum[vectors];
    for (L& lanes : sum) lanes = L(Scalar(0));
    for (int64_t j = begin; j < end; ++j)
      unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA { sum[v] += term(j, v); });
    unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA { total[v].add(sum[v]); });
    after_block();
  }
}

template <int vectors, typename Scalar, typename Term>
SOFTMAX_EXT_INLINE void column_sums(int64_t length, Total<Scalar> (&total)[vectors], Term term) {
  for (auto& lanes : total) lanes = Total<Scalar>(0.0);
  add_column_sums(length, total, term, [] SOFTMAX_EXT_INLINE_LAMBDA {});
}

// The summaries without the maxima's own 1, of whole columns.
template <int vectors, typename T, Sum kind = Sum::but_maxima>
struct ColumnSummaries {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;

  L max[vectors];
  Total<Scalar> rest[vectors];
  Total<Scalar> distances[vectors];  // only Sum::with_distances

  SOFTMAX_EXT_INLINE ColumnSummaries(
      const ColumnTile<const T, vectors>& x, int64_t length, const L (&scale)[vectors]) {
    column_maxima(x, length, max);
    L base[vectors], one[vectors], maxima[vectors], distance[vectors];
    Total<Scalar> counted[vectors];  // apart: beside −1, small terms would lose digits
    unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
      base[v] = finite_base(max[v]);
      const auto is_empty = max[v] == L(-kInfinity<Scalar>);
      one[v] = select(is_empty, L(Scalar(0)), L(Scalar(1)));
      rest[v] = distances[v] = Total<Scalar>(0.0);
      distance[v] = L(Scalar(0));
      counted[v] = Total<Scalar>(-1.0);
    });
    constexpr int64_t kAtOnce = int64_t{1} << 20;  // a float counts no further than 2^24
    for (int64_t begin = 0; begin < length; begin += kAtOnce) {
      for (L& lanes : maxima) lanes = L(Scalar(0));
      const int64_t size = length - begin < kAtOnce ? length - begin : kAtOnce;
      const auto term_at = [&](int64_t j, int v) SOFTMAX_EXT_INLINE_LAMBDA {
        const L logit = x.load(begin + j, v);
        const auto is_max = logit == max[v];
        maxima[v] += select(is_max, one[v], L(Scalar(0)));
        const L exponent = (logit - base[v]) * scale[v];
        const L term = exponential(exponent);
        if constexpr (kind == Sum::with_distances)
          distance[v] = add_distance(distance[v], exponent, term);
        return select(is_max, L(Scalar(0)), term);
      };
      add_column_sums(size, rest, term_at, [&] SOFTMAX_EXT_INLINE_LAMBDA {
        if constexpr (kind == Sum::with_distances)
          unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
            distances[v].add(distance[v]);
            distance[v] = L(Scalar(0));
          });
      });
      unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA { counted[v].add(maxima[v]); });
    }
    unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA { rest[v].add(counted[v]); });
  }
  SOFTMAX_EXT_INLINE L log_sum(int v) const {
    if constexpr (sizeof(Scalar) == 8)
      return logarithm_of_1_plus(rest[v].vectors[0]);
    else
      return join(logarithm_of_1_plus(rest[v].vectors[0]), logarithm_of_1_plus(rest[v].vectors[1]));
  }
  SOFTMAX_EXT_INLINE L mean_distance(int v) const {
    return distances[v].rounded() / (L(Scalar(1)) + rest[v].rounded());
  }
};

// --- Short rows are made columns of a tile that lies in the L1 cache.

// Below so many elements a row fills less than half of a vector.
template <typename Scalar>
inline constexpr int kShort = Lanes<Scalar>::kCount / 2;

// As many rows as a vector has lanes, which follow each other in memory: `length` vectors of it become
// the `length` columns, or the other way round, by as many choices of lanes for each.
class Transposition {
 public:
  Transposition() = default;
  SOFTMAX_EXT_INLINE Transposition(int length, bool is_inverse) : length_(length) {
    for (int to = 0; to < length; ++to) {
      int32_t lane[kCount];
      bool takes[kShort<float>][kCount];
      for (int i = 0; i < kCount; ++i) {
        const int at = is_inverse ? to * kCount + i : i * length + to;
        lane[i] = is_inverse ? at / length : at % kCount;
        const int from = is_inverse ? at % length : at / kCount;
        for (int k = 0; k < length; ++k) takes[k][i] = k == from;
      }
      for (int from = 0; from < length; ++from)
        choice_[to * kShort<float> + from] = LaneChoice(lane, takes[from]);
    }
  }
  // put(to, vector) from the vectors.
  template <typename Put>
  SOFTMAX_EXT_INLINE void apply(const Lanes<float>* vectors, Put put) const {
    for (int to = 0; to < length_; ++to) {
      Lanes<float> result(0.0f);
      for (int from = 0; from < length_; ++from)
        result = choice_[to * kShort<float> + from].onto(result, vectors[from]);
      put(to, result);
    }
  }

 private:
  static constexpr int kCount = Lanes<float>::kCount;

  int length_;
  LaneChoice choice_[kShort<float> * kShort<float>];
};

// Blocks of rows of at most kShort elements, and their columns.
template <typename Scalar>
struct Transposed {
  using L = Lanes<Scalar>;
  static constexpr int kRows = 4 * L::kCount;

  alignas(
      kVectorBytes) Scalar elements[kShort<Scalar> * kRows];  // element j of row r at j · kRows + r

  template <typename From>
  SOFTMAX_EXT_INLINE void read(From from, int64_t stride, int count, int length) {
    int first = 0;
    if constexpr (kCanChoose) {
      if (is_one_piece(from, stride, length) && count >= L::kCount) {
        prepare(length, /*is_inverse=*/false);
        for (; first + L::kCount <= count; first += L::kCount) {
          L vectors[kShort<Scalar>];
          for (int k = 0; k < length; ++k) vectors[k] = load(from + first * length + k * L::kCount);
          transposition_.apply(vectors, [&](int j, L lanes) SOFTMAX_EXT_INLINE_LAMBDA {
            store(elements + j * kRows + first, lanes);
          });
        }
      }
    }
    for (int r = first; r < count; ++r) {
      store(row_, load_some(row_at(from, r, stride), length, L(Scalar(0))));
      for (int j = 0; j < length; ++j) elements[j * kRows + r] = row_[j];
    }
  }
  template <typename T>
  SOFTMAX_EXT_INLINE void write(T* to, int64_t stride, int count, int length) {
    int first = 0;
    if constexpr (kCanChoose) {
      if (stride == length && count >= L::kCount) {
        prepare(length, /*is_inverse=*/true);
        for (; first + L::kCount <= count; first += L::kCount) {
          L vectors[kShort<Scalar>];
          for (int j = 0; j < length; ++j) vectors[j] = load(elements + j * kRows + first);
          transposition_.apply(vectors, [&](int k, L lanes) SOFTMAX_EXT_INLINE_LAMBDA {
            store(to + first * length + k * L::kCount, lanes);
          });
        }
      }
    }
    for (int r = first; r < count; ++r) {
      for (int j = 0; j < length; ++j) row_[j] = elements[j * kRows + r];
      store_some(to + r * stride, load(row_), length);
    }
  }

 private:
  static constexpr bool kCanChoose = sizeof(Scalar) == 4;

  Transposition transposition_;  // a block is read alone or written alone
  bool is_prepared_ = false;
  alignas(kVectorBytes) Scalar row_[2 * L::kCount] = {};

  SOFTMAX_EXT_INLINE void prepare(int length, bool is_inverse) {
    if (!is_prepared_) transposition_ = Transposition(length, is_inverse);
    is_prepared_ = true;
  }
};

// Calls body(first row, rows) for blocks of rows.
template <typename Scalar, typename Body>
SOFTMAX_EXT_INLINE void for_each_block(int64_t rows, Body body) {
  constexpr int kRows = Transposed<Scalar>::kRows;
  for (int64_t first = 0; first < rows; first += kRows)
    body(first, static_cast<int>(rows - first < kRows ? rows - first : kRows));
}

// Short rows of logits, by way of kernels of columns of their lanes.
template <typename In, typename Out, typename Columns>
SOFTMAX_EXT_INLINE void as_columns(const Logits<In, Out>& logits, Columns columns) {
  using Scalar = LaneOf<In>;
  const int length = static_cast<int>(logits.length);
  Transposed<Scalar> input, output;
  for_each_block<Scalar>(logits.count, [&](int64_t first, int count) {
    input.read(row_at(logits.in, first, logits.in_stride), logits.in_stride, count, length);
    columns(Logits<Scalar, Scalar>{
        input.elements,
        input.kRows,
        output.elements,
        output.kRows,
        count,
        length,
        logits.scale.from(first),
        nullptr,
        logits.grad.from(first)});
    output.write(logits.out + first * logits.out_stride, logits.out_stride, count, length);
  });
}

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
