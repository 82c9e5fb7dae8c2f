#pragma once
// Loops over contiguous elements. What sums they make depends on the number of elements alone.

#include "csrc/cpu/simd/elementary.h"
#include "csrc/numerics/entropy.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {

// Vectors in flight: as many as hide the latency of an addition.
inline constexpr int kUnroll = 4;

// Calls pair(offset, i) for pairs of whole vectors, of which accumulators i and i + 1 are, then
// single(offset, i) for a vector, and tail(offset, count, i) for what is left.
template <typename Pair, typename Single, typename Tail>
SOFTMAX_EXT_INLINE void for_each_vector(
    int64_t count, int lanes, Pair pair, Single single, Tail tail) {
  int64_t offset = 0;
  for (; offset + kUnroll * lanes <= count; offset += kUnroll * lanes) {
    pair(offset, Index<0>());
    pair(offset + 2 * lanes, Index<2>());
  }
  for (; offset + lanes <= count; offset += lanes) single(offset, Index<0>());
  if (offset < count) tail(offset, static_cast<int>(count - offset), Index<1>());
}

// −inf for no elements; NaN is skipped.
template <typename From, typename T = Pointee<From>>
SOFTMAX_EXT_INLINE LaneOf<T> span_maximum(From x, int64_t count) {
  using L = Lanes<LaneOf<T>>;
  const L lowest(-kInfinity<LaneOf<T>>);
  L max[kUnroll] = {lowest, lowest, lowest, lowest};
  for_each_vector(
      count,
      L::kCount,
      [&](int64_t at, auto i) SOFTMAX_EXT_INLINE_LAMBDA {
        const auto pair = load_pair(x + at);
        max[i] = larger(pair.first, max[i]);
        max[i + 1] = larger(pair.second, max[i + 1]);
      },
      [&](int64_t at, auto i) SOFTMAX_EXT_INLINE_LAMBDA { max[i] = larger(load(x + at), max[i]); },
      [&](int64_t at, int some, auto i)
          SOFTMAX_EXT_INLINE_LAMBDA { max[i] = larger(load_some(x + at, some, lowest), max[i]); });
  return maximum_of(larger(larger(max[0], max[1]), larger(max[2], max[3])));
}

// The largest finite number of its sign where the maximum is infinite: −inf then has the term 0.
template <typename L>
SOFTMAX_EXT_INLINE L finite_base(L max) {
  using Scalar = ScalarOf<L>;
  return smaller(larger(max, L(-kLargest<Scalar>)), L(kLargest<Scalar>));
}

enum class Sum {
  all_terms,       // Σ exp((x − max) · scale)
  but_maxima,      // the same without the maxima's own 1; they are counted
  with_distances,  // and Σ exp(−D) · D, D = (max − x) · scale
};

template <Sum kind, typename Scalar>
struct OperatorOfSum {
  using Type = OverLogits<Scalar, double, kind == Sum::but_maxima>;
};
template <typename Scalar>
struct OperatorOfSum<Sum::with_distances, Scalar> {
  using Type = OverDistances<Scalar, double>;
};
template <Sum kind, typename T>
using SummaryOf = typename OperatorOfSum<kind, LaneOf<T>>::Type::Summary;

// exp(−D) · D from the exponent −D and its exponential; 0 where that is 0, whatever the exponent.
template <typename L>
SOFTMAX_EXT_INLINE L add_distance(L sum, L exponent, L term) {
  const L lowest(ExpConstants<typename L::Scalar>::kLowest);
  return multiply_add(-larger(lowest, exponent), term, sum);
}

// Blocks of so many elements are summed in lanes and added up in double: the error of a sum does
// not grow with the number of its terms.
inline constexpr int64_t kBlock = 512;

// Two vectors of elements, in time for the pass that reads them.
template <typename T>
SOFTMAX_EXT_INLINE void prefetch_pair(const T* from) {
  constexpr int kLine = 64 / sizeof(T);
#pragma GCC unroll 4
  for (int i = 0; i < 2 * Lanes<LaneOf<T>>::kCount; i += kLine) __builtin_prefetch(from + i);
}

// The sum of the terms of a span; keep(offset, count, term) gets each vector of them. Those of a pair are
// in the order of load_pair if `in_pairs`, else in that of the elements.
template <Sum kind, bool in_pairs, typename From, typename Keep, typename T = Pointee<From>>
SOFTMAX_EXT_INLINE SummaryOf<kind, T> span_summary(
    From x, int64_t count, LaneOf<T> scale, From next, Keep keep) {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;
  constexpr int kLanes = L::kCount;
  const Scalar max = span_maximum(x, count);
  const L base = finite_base(L(max));
  const L factor(scale);
  const L peak(max);
  Total<Scalar> total(0.0), distances(0.0);
  int64_t maxima = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = count - begin < kBlock ? count - begin : kBlock;
    const auto block = x + begin;
    const L none{Scalar(0)};
    L sum[kUnroll] = {none, none, none, none}, distance[kUnroll] = {none, none, none, none};
    const auto add = [&](L logit, int i) SOFTMAX_EXT_INLINE_LAMBDA {
      const L exponent = (logit - base) * factor;
      const L term = exponential(exponent);
      if constexpr (kind == Sum::with_distances)
        distance[i] = add_distance(distance[i], exponent, term);
      if constexpr (kind != Sum::all_terms) {
        maxima += count_equal(logit, peak);
        add_unless_equal(sum[i], term, logit, peak);
      } else {
        sum[i] += term;
      }
      return term;
    };
    for_each_vector(
        size,
        kLanes,
        [&](int64_t at, auto i) SOFTMAX_EXT_INLINE_LAMBDA {
          prefetch_pair(next + begin + at);
          LanePair<typename StoredElement<T>::Type> pair;
          if constexpr (in_pairs)
            pair = load_pair(block + at);
          else
            pair = {load(block + at), load(block + at + kLanes)};
          const L first = add(pair.first, i);
          const L second = add(pair.second, i + 1);
          keep(begin + at, kLanes, first);
          keep(begin + at + kLanes, kLanes, second);
        },
        [&](int64_t at, auto i)
            SOFTMAX_EXT_INLINE_LAMBDA { keep(begin + at, kLanes, add(load(block + at), i)); },
        [&](int64_t at, int some, auto i) SOFTMAX_EXT_INLINE_LAMBDA {
          keep(begin + at, some, add(load_some(block + at, some, L(-kInfinity<Scalar>)), i));
        });
    total.add((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if constexpr (kind == Sum::with_distances)
      distances.add((distance[0] + distance[1]) + (distance[2] + distance[3]));
  }
  using Operator = typename OperatorOfSum<kind, Scalar>::Type;
  // In a span of −inf alone, all of the padding equals the maximum too.
  const auto counted = static_cast<double>(maxima);
  if constexpr (kind == Sum::with_distances)
    return Operator::summary_of(max, total.sum(), counted, distances.sum());
  else
    return Operator::summary_of(max, total.sum(), counted);
}

// out[j] = map(in[j]); several inputs are given to map in their order.
template <typename Out, typename Map, typename... In>
SOFTMAX_EXT_INLINE void map_span(int64_t count, Out* out, Map map, const In*... in) {
  using L = Lanes<LaneOf<Out>>;
  constexpr int kLanes = L::kCount;
  const L padding{LaneOf<Out>(0)};
  // What is read next, unless it would drive out of the L1 cache what is read now.
  const bool is_ahead = count * static_cast<int64_t>((sizeof(In) + ...)) <= 16384;
  for_each_vector(
      count,
      kLanes,
      [&](int64_t at, auto) SOFTMAX_EXT_INLINE_LAMBDA {
        if (is_ahead) (prefetch_pair(in + count + at), ...);
        if constexpr ((kPairsAlike<Out, In> && ...)) {
          [&](auto... pair) SOFTMAX_EXT_INLINE_LAMBDA {
            store_pair(out + at, LanePair<Out>{map(pair.first...), map(pair.second...)});
          }(load_pair(in + at)...);
        } else {
          store(out + at, map(load(in + at)...));
          store(out + at + kLanes, map(load(in + at + kLanes)...));
        }
      },
      [&](int64_t at, auto) SOFTMAX_EXT_INLINE_LAMBDA { store(out + at, map(load(in + at)...)); },
      [&](int64_t at, int some, auto) SOFTMAX_EXT_INLINE_LAMBDA {
        store_some(out + at, map(load_some(in + at, some, padding)...), some);
      });
}

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
