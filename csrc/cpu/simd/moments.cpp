// The moments of rows: what a fit of the temperature is made of.

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/kernels.h"
#include "csrc/cpu/simd/spans.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

// The three sums of some logits, in lanes.
template <typename T>
struct Sums {
  using L = Lanes<T>;

  L rest = L(T(0));
  L first = L(T(0));
  L second = L(T(0));

  // What has no probability is not infinitely far.
  SOFTMAX_EXT_INLINE void add(L logit, L max, L base, L scale) {
    const L none(T(0));
    const L from_max = logit - base;
    const L term = exponential(from_max * scale);
    const L distance = select(term == none, none, from_max);
    const L product = term * distance;
    add_unless_equal(rest, term, logit, max);
    first += product;
    second = multiply_add(product, distance, second);
  }
  SOFTMAX_EXT_INLINE Sums& operator+=(const Sums& other) {
    rest += other.rest;
    first += other.first;
    second += other.second;
    return *this;
  }
};
template <typename T>
struct Totals {
  Total<T> rest = Total<T>(0.0);
  Total<T> first = Total<T>(0.0);
  Total<T> second = Total<T>(0.0);

  SOFTMAX_EXT_INLINE void add(const Sums<T>& sums) {
    rest.add(sums.rest);
    first.add(sums.first);
    second.add(sums.second);
  }
};

template <typename In>
SOFTMAX_EXT_INLINE LogitMoments<LaneOf<In>> moments_of(
    const In* x, int64_t count, LaneOf<In> scale) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  const Scalar max = span_maximum(x, count);
  const L peak(max), base = finite_base(L(max)), factor(scale);
  Totals<Scalar> totals;
  int64_t maxima = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = count - begin < kBlock ? count - begin : kBlock;
    const In* const block = x + begin;
    Sums<Scalar> sums[2];
    const auto add = [&](L logit, int i) SOFTMAX_EXT_INLINE_LAMBDA {
      maxima += count_equal(logit, peak);
      sums[i].add(logit, peak, base, factor);
    };
    for_each_vector(
        size,
        L::kCount,
        [&](int64_t at, auto) SOFTMAX_EXT_INLINE_LAMBDA {
          const auto pair = load_pair(block + at);
          add(pair.first, 0);
          add(pair.second, 1);
        },
        [&](int64_t at, auto) SOFTMAX_EXT_INLINE_LAMBDA { add(load(block + at), 0); },
        [&](int64_t at, int some, auto) SOFTMAX_EXT_INLINE_LAMBDA {
          add(load_some(block + at, some, L(-kInfinity<Scalar>)), 1);
        });
    totals.add(sums[0] += sums[1]);
  }
  return {
      OverLogits<Scalar, double>::summary_of(max, totals.rest.sum(), static_cast<double>(maxima)),
      totals.first.sum(),
      totals.second.sum()};
}

template <typename T>
SOFTMAX_EXT_INLINE void store_total(double* to, const Total<T>& total) {
  for (int i = 0; i < Total<T>::kVectors; ++i)
    store(to + i * Lanes<double>::kCount, total.vectors[i]);
}

template <typename In>
void columns(const Moments<In>& logits) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  constexpr int64_t kColumnBlock = 32;
  for_each_tile<Scalar, kTile / 2>(logits.count, [&]<int vectors>(int64_t row, int in_last) {
    const ColumnTile<const In, vectors> x{logits.in + row, logits.in_stride, in_last};
    const L scale(logits.scale), none(Scalar(0));
    L max[vectors], base[vectors], one[vectors];
    Totals<Scalar> totals[vectors];
    Total<Scalar> maxima[vectors];  // less 1; apart, as beside it small terms would lose digits
    column_maxima(x, logits.length, max);
    unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
      base[v] = finite_base(max[v]);
      one[v] = select(max[v] == L(-kInfinity<Scalar>), none, L(Scalar(1)));
      maxima[v] = Total<Scalar>(-1.0);
    });
    for (int64_t begin = 0; begin < logits.length; begin += kColumnBlock) {
      const int64_t left = logits.length - begin;
      const int64_t end = left < kColumnBlock ? logits.length : begin + kColumnBlock;
      Sums<Scalar> sums[vectors];
      L equal[vectors];
      for (L& lanes : equal) lanes = none;
      for (int64_t j = begin; j < end; ++j)
        unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
          const L logit = x.load(j, v);
          add_if_equal(equal[v], one[v], logit, max[v]);
          sums[v].add(logit, max[v], base[v], scale);
        });
      unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
        totals[v].add(sums[v]);
        maxima[v].add(equal[v]);
      });
    }
    unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
      const int64_t at = row + v * L::kCount;
      totals[v].rest.add(maxima[v]);
      store(logits.max + at, max[v]);
      store_total(logits.rest + at, totals[v].rest);
      store_total(logits.first + at, totals[v].first);
      store_total(logits.second + at, totals[v].second);
    });
  });
}

template <typename In>
void rows(const Moments<In>& logits) {
  using Scalar = LaneOf<In>;
  if (logits.length <= kShort<Scalar>) {
    const int length = static_cast<int>(logits.length);
    Transposed<Scalar> block;
    for_each_block<Scalar>(logits.count, [&](int64_t row, int count) {
      block.read(logits.in + row * logits.in_stride, logits.in_stride, count, length);
      columns(Moments<Scalar>{
          block.elements,
          block.kRows,
          count,
          length,
          logits.scale,
          logits.max + row,
          logits.rest + row,
          logits.first + row,
          logits.second + row});
    });
    return;
  }
  for (int64_t row = 0; row < logits.count; ++row) {
    const auto moments =
        moments_of(logits.in + row * logits.in_stride, logits.length, logits.scale);
    logits.max[row] = moments.summary.max;
    logits.rest[row] = moments.summary.rest;
    logits.first[row] = moments.first;
    logits.second[row] = moments.second;
  }
}

template <typename In>
LogitMoments<LaneOf<In>> summarize(const In* x, int64_t count, LaneOf<In> scale) {
  return moments_of(x, count, scale);
}

template <typename In>
constexpr MomentsKernels<In> kernels() {
  return {rows<In>, columns<In>, summarize<In>};
}

}  // namespace

const ByType<MomentsKernels> moments_table = {
    kernels<float>(), kernels<double>(), kernels<BFloat16>(), kernels<Float16>()};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
