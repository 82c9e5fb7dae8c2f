// What sampling does to each element of a row: csrc/cpu/row_sampler.h says when.

#include "csrc/numerics/sampling.h"

#include "csrc/cpu/simd/kernels.h"
#include "csrc/cpu/simd/masks.h"
#include "csrc/cpu/simd/spans.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

// body(offset, lanes, number of them) in order; what is beyond the end is −inf.
template <typename T, typename Body>
SOFTMAX_EXT_INLINE void in_order(const T* x, int64_t count, Body body) {
  using L = Lanes<LaneOf<T>>;
  int64_t at = 0;
  for (; at + L::kCount <= count; at += L::kCount) body(at, load(x + at));
  if (at < count)
    body(at, load_some(x + at, static_cast<int>(count - at), L(-kInfinity<LaneOf<T>>)));
}

template <typename T>
LaneOf<T> maximum(const T* x, int64_t count) {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;
  Mask<Scalar> nans = is_nan(L(Scalar(0)));
  L max[2] = {L(-kInfinity<Scalar>), L(-kInfinity<Scalar>)};
  int64_t at = 0;
  for (; at + 2 * L::kCount <= count; at += 2 * L::kCount) {
    const auto pair = load_pair(x + at);
    nans = nans | is_nan(pair.first) | is_nan(pair.second);
    max[0] = larger(pair.first, max[0]);
    max[1] = larger(pair.second, max[1]);
  }
  in_order(x + at, count - at, [&](int64_t, L logits) SOFTMAX_EXT_INLINE_LAMBDA {
    nans = nans | is_nan(logits);
    max[0] = larger(logits, max[0]);
  });
  return is_any(nans) ? kNaN<Scalar> : maximum_of(larger(max[0], max[1]));
}

template <typename T>
double kept_sum(const T* x, int64_t count, LaneOf<T> base, LaneOf<T> scale, LaneOf<T> threshold) {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;
  const L from(base), factor(scale), lowest(threshold);
  Total<Scalar> total(0.0);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = count - begin < kBlock ? count - begin : kBlock;
    const T* const block = x + begin;
    L sum[kUnroll] = {L(Scalar(0)), L(Scalar(0)), L(Scalar(0)), L(Scalar(0))};
    const auto add = [&](L logits, Mask<Scalar> kept, int i) SOFTMAX_EXT_INLINE_LAMBDA {
      sum[i] += only(kept, exponential((logits - from) * factor));
    };
    const auto add_one = [&](L logits, int i) SOFTMAX_EXT_INLINE_LAMBDA {
      const auto kept = not_less(logits, lowest);
      if (is_any(kept)) add(logits, kept, i);
    };
    for_each_vector(
        size,
        L::kCount,
        [&](int64_t at, auto i) SOFTMAX_EXT_INLINE_LAMBDA {
          const auto pair = load_pair(block + at);
          const auto first = not_less(pair.first, lowest);
          const auto second = not_less(pair.second, lowest);
          if (!is_any(first | second)) return;
          add(pair.first, first, i);
          add(pair.second, second, i + 1);
        },
        [&](int64_t at, auto i) SOFTMAX_EXT_INLINE_LAMBDA { add_one(load(block + at), i); },
        [&](int64_t at, int some, auto i) SOFTMAX_EXT_INLINE_LAMBDA {
          add_one(load_some(block + at, some, L(-kInfinity<Scalar>)), i);
        });
    total.add((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  return total.sum();
}

// by_mass: a logit weighs exp((x − base) · scale), else 1.
template <bool by_mass, typename T>
Gathered gather(
    const T* x,
    int64_t count,
    LaneOf<T> base,
    LaneOf<T> scale,
    LaneOf<T> low,
    LaneOf<T> high,
    LaneOf<T>* gathered) {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;
  const L from(base), factor(scale), lowest(low), end(high);
  Gathered result{0, 0, 0};
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = count - begin < kBlock ? count - begin : kBlock;
    L above(Scalar(0)), inside(Scalar(0));
    in_order(x + begin, size, [&](int64_t, L logits) SOFTMAX_EXT_INLINE_LAMBDA {
      const auto kept = not_less(logits, lowest);
      if (!is_any(kept)) return;
      const auto is_above = not_less(logits, end);
      const auto is_inside = without(kept, is_above);
      if (is_any(is_inside)) result.count += store_only(gathered + result.count, is_inside, logits);
      const L weight = by_mass ? exponential((logits - from) * factor) : L(Scalar(1));
      above += only(is_above, weight);
      inside += only(is_inside, weight);
    });
    Total<Scalar> sums(0.0);
    sums.add(above);
    result.above += sums.sum();
    Total<Scalar> inner(0.0);
    inner.add(inside);
    result.inside += inner.sum();
  }
  return result;
}

template <typename T>
void terms(const T* x, int64_t count, LaneOf<T> base, LaneOf<T> scale, LaneOf<T>* out) {
  using L = Lanes<LaneOf<T>>;
  const L from(base), factor(scale);
  in_order(x, count, [&](int64_t at, L logits) SOFTMAX_EXT_INLINE_LAMBDA {
    const int64_t left = count - at;
    store_lanes(
        out + at,
        static_cast<int>(left < L::kCount ? left : L::kCount),
        exponential((logits - from) * factor));
  });
}

template <typename T>
int64_t pick(
    const T* x,
    int64_t count,
    LaneOf<T> base,
    LaneOf<T> scale,
    LaneOf<T> threshold,
    double target) {
  using Scalar = LaneOf<T>;
  using L = Lanes<Scalar>;
  constexpr int kLanes = L::kCount;
  constexpr int kGroup = kUnroll * kLanes;
  const L from(base), factor(scale), lowest(threshold);
  alignas(kVectorBytes) Scalar of_group[kGroup];
  double sum = 0;
  double below = 0;
  int64_t last = -1;  // the last group with a weight
  const auto weigh = [&](int64_t begin) SOFTMAX_EXT_INLINE_LAMBDA {
    L group(Scalar(0));
    const int64_t left = count - begin;
    for (int v = 0; v < kUnroll; ++v) {
      L weight(Scalar(0));
      const int64_t some = left - v * kLanes;
      if (some > 0) {
        const T* const vector = x + begin + v * kLanes;
        const L logits = load_lanes(
            vector, static_cast<int>(some < kLanes ? some : kLanes), L(-kInfinity<Scalar>));
        const auto kept = not_less(logits, lowest);
        if (is_any(kept)) weight = only(kept, exponential((logits - from) * factor));
      }
      store(of_group + v * kLanes, weight);
      group += weight;
    }
    return static_cast<double>(sum_of(group));
  };
  for (int64_t begin = 0; begin < count; begin += kGroup) {
    const double weight = weigh(begin);
    if (!(weight > 0)) continue;
    last = begin;
    below = sum;
    sum += weight;
    if (sum > target) break;
  }
  if (last < 0) return -1;
  weigh(last);  // again: where the target was not reached, others came after it
  CdfSearch search(target - below);
  for (int i = 0; i < kGroup; ++i)
    if (search.add(last + i, of_group[i])) break;
  return search.index();
}

template <typename In>
constexpr SamplingKernels<In> kernels() {
  return {maximum<In>, kept_sum<In>, gather<false, In>, gather<true, In>, terms<In>, pick<In>};
}

}  // namespace

const ByType<SamplingKernels> sampling_table = {
    kernels<float>(), kernels<double>(), kernels<BFloat16>(), kernels<Float16>()};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
