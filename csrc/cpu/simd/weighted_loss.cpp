// The cross-entropy loss with options, beside the maxima and log-sums that reduction.cpp yields.

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/rows.h"
#include "csrc/numerics/cross_entropy.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

template <typename In>
void cap(const In* x, LaneOf<In>* y, int64_t count, LaneOf<In> softcap) {
  using L = Lanes<LaneOf<In>>;
  const L most(softcap);
  const L one_over(LaneOf<In>(1) / softcap);
  for (int64_t at = 0; at < count; at += L::kCount) {
    const int some = static_cast<int>(count - at < L::kCount ? count - at : L::kCount);
    const L logits = load_lanes(x + at, some, L(LaneOf<In>(0)));
    store_lanes(y + at, some, hyperbolic_tangent(logits * one_over) * most);
  }
}

// Which of the two factors of the classes' weights there are, as template arguments.
template <typename In, typename Body>
SOFTMAX_EXT_INLINE void with_factors(const WeightedLogits<In>& logits, Body body) {
  if (logits.targets != nullptr && logits.weights != nullptr)
    body.template operator()<true, true>();
  else if (logits.targets != nullptr)
    body.template operator()<true, false>();
  else if (logits.weights != nullptr)
    body.template operator()<false, true>();
  else
    body.template operator()<false, false>();
}

// u of the classes [at, at + some) of a row, 0 beyond.
template <bool has_targets, bool has_weights, typename Scalar>
SOFTMAX_EXT_INLINE Lanes<Scalar> weights_of_span(
    const Scalar* targets,
    const Scalar* weights,
    ClassWeights<Scalar> of_classes,
    int64_t at,
    int some) {
  using L = Lanes<Scalar>;
  const L none(Scalar(0));
  L weight(Scalar(1)), target(Scalar(0));
  if constexpr (has_targets) target = load_lanes(targets + at, some, none);
  if constexpr (has_weights) weight = load_lanes(weights + at, some, none);
  return of_classes(weight, target);
}

// The others have the weight 0 here: they are no classes.
template <typename Scalar>
SOFTMAX_EXT_INLINE Lanes<Scalar> first_of(Lanes<Scalar> lanes, int some) {
  using L = Lanes<Scalar>;
  if (some < L::kCount) {
    alignas(kVectorBytes) Scalar kept[L::kCount] = {};
    store_some(kept, lanes, some);
    return load(kept);
  }
  return lanes;
}

template <typename In>
void weigh_rows(const WeightedLogits<In>& logits, double* distances, double* spreads) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  constexpr int kLanes = L::kCount;
  const bool has_distances = distances != nullptr;
  with_factors(logits, [&]<bool has_targets, bool has_weights>() SOFTMAX_EXT_INLINE_LAMBDA {
    for (int64_t row = 0; row < logits.count; ++row) {
      const In* const x = logits.in + row * logits.in_stride;
      const Scalar* const t = logits.targets + (has_targets ? row * logits.target_stride : 0);
      const L max(logits.max[row]);
      Total<Scalar> distance(0.0), spread(0.0);
      for (int64_t begin = 0; begin < logits.length; begin += kBlock) {
        const int64_t size = logits.length - begin < kBlock ? logits.length - begin : kBlock;
        L of_block[2] = {L(Scalar(0)), L(Scalar(0))};
        L weights[2] = {L(Scalar(0)), L(Scalar(0))};
        const auto add = [&](int64_t at, int some, int i) SOFTMAX_EXT_INLINE_LAMBDA {
          if constexpr (!has_targets && !has_weights) {
            of_block[i] += load_lanes(x + begin + at, some, max) - max;  // times u, which all have
            return;
          }
          const L u = first_of(
              weights_of_span<has_targets, has_weights>(
                  t, logits.weights, logits.of_classes, begin + at, some),
              some);
          if (has_distances) {
            const L logit = load_lanes(x + begin + at, some, max);
            of_block[i] += weighted_distance(u, logit - max);
          }
          if constexpr (has_targets) weights[i] += u;
        };
        int64_t at = 0;
        for (; at + 2 * kLanes <= size; at += 2 * kLanes) {
          add(at, kLanes, 0);
          add(at + kLanes, kLanes, 1);
        }
        for (; at < size; at += kLanes)
          add(at, static_cast<int>(size - at < kLanes ? size - at : kLanes), 0);
        distance.add(of_block[0] + of_block[1]);
        if constexpr (has_targets) spread.add(weights[0] + weights[1]);
      }
      constexpr bool kIsUniform = !has_targets && !has_weights;
      const double u = kIsUniform ? double(logits.of_classes.uniform) : 1;
      if (has_distances) distances[row] = u * distance.sum();
      if constexpr (has_targets) spreads[row] = spread.sum();
    }
  });
}

template <typename In>
void weigh_columns(const WeightedLogits<In>& logits, double* distances, double* spreads) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  constexpr int kHalfTile = kTile / 2;
  with_factors(logits, [&]<bool has_targets, bool has_weights>() SOFTMAX_EXT_INLINE_LAMBDA {
    for_each_tile<Scalar, kHalfTile>(logits.count, [&]<int vectors>(int64_t first, int in_last) {
      const ColumnTile<const In, vectors> x{logits.in + first, logits.in_stride, in_last};
      const ColumnTile<const Scalar, vectors> t{
          has_targets ? logits.targets + first : nullptr, logits.target_stride, in_last};
      const auto u = [&](int64_t j, auto v) SOFTMAX_EXT_INLINE_LAMBDA {
        L weight(Scalar(1)), target(Scalar(0));
        if constexpr (has_targets) target = t.load(j, v);
        if constexpr (has_weights) weight = L(logits.weights[j]);
        return logits.of_classes(weight, target);
      };
      L max[vectors];
      tile_lanes(RowValues<Scalar>{logits.max, 1}, first, in_last, max);
      Total<Scalar> sums[vectors];
      const auto put = [&](double* to) {
        unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
          constexpr int kDoubles = Lanes<double>::kCount;
          const int count = v + 1 < vectors ? L::kCount : in_last;
          for (int i = 0; i < count; ++i)
            to[first + v * L::kCount + i] = sums[v].vectors[i / kDoubles].native[i % kDoubles];
        });
      };
      if (distances != nullptr) {
        column_sums(logits.length, sums, [&](int64_t j, auto v) SOFTMAX_EXT_INLINE_LAMBDA {
          return weighted_distance(u(j, v), x.load(j, v) - max[v]);
        });
        put(distances);
      }
      if constexpr (has_targets) {
        column_sums(logits.length, sums, [&](int64_t j, auto v) SOFTMAX_EXT_INLINE_LAMBDA {
          return u(j, v);
        });
        put(spreads);
      }
    });
  });
}

template <bool has_softcap, typename In>
SOFTMAX_EXT_INLINE void gradient_rows(const WeightedGradients<In>& gradients) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  constexpr int kLanes = L::kCount;
  const WeightedLogits<In>& logits = gradients.logits;
  const bool has_spread = !logits.of_classes.are_zero();
  const L one(Scalar(1));
  const L one_over_softcap(has_softcap ? Scalar(1) / gradients.softcap : Scalar(0));
  with_factors(logits, [&]<bool has_targets, bool has_weights>() SOFTMAX_EXT_INLINE_LAMBDA {
    for (int64_t row = 0; row < logits.count; ++row) {
      const In* const x = logits.in + row * logits.in_stride;
      In* const dx = gradients.out + row * gradients.out_stride;
      const Scalar* const t = logits.targets + (has_targets ? row * logits.target_stride : 0);
      const L base = finite_base(L(logits.max[row]));
      const L scale(gradients.scale[row]), factor(gradients.factor[row]);
      const L share(gradients.share[row]);
      const auto mapped = [&](L logit, L u) SOFTMAX_EXT_INLINE_LAMBDA {
        L of_logit = exponential((logit - base) * scale) * factor;
        if constexpr (has_targets || has_weights)
          of_logit = of_logit - u * share;
        else if (has_spread)
          of_logit = of_logit - u * share;
        if constexpr (has_softcap) {
          const L slope = logit * one_over_softcap;
          of_logit = of_logit * (one - slope * slope);
        }
        return of_logit;
      };
      if constexpr (!has_targets && !has_weights) {
        const L uniform(logits.of_classes.uniform);
        map_span(
            logits.length,
            dx,
            [&](L logit) SOFTMAX_EXT_INLINE_LAMBDA { return mapped(logit, uniform); },
            x);
        continue;
      }
      for (int64_t at = 0; at < logits.length; at += kLanes) {
        const int some =
            static_cast<int>(logits.length - at < kLanes ? logits.length - at : kLanes);
        const L u = weights_of_span<has_targets, has_weights>(
            t, logits.weights, logits.of_classes, at, some);
        store_lanes(dx + at, some, mapped(load_lanes(x + at, some, base), u));
      }
    }
  });
}

template <typename In>
void rows(const WeightedGradients<In>& gradients) {
  // Capped logits are of the type of arithmetic.
  if constexpr (sizeof(In) >= 4)
    if (gradients.softcap != 0) return gradient_rows<true>(gradients);
  gradient_rows<false>(gradients);
}

template <typename In>
void columns(const WeightedGradients<In>& gradients) {
  using Scalar = LaneOf<In>;
  using L = Lanes<Scalar>;
  const WeightedLogits<In>& logits = gradients.logits;
  with_factors(logits, [&]<bool has_targets, bool has_weights>() SOFTMAX_EXT_INLINE_LAMBDA {
    for_each_tile<Scalar, kTile / 2>(logits.count, [&]<int vectors>(int64_t first, int in_last) {
      const ColumnTile<const In, vectors> x{logits.in + first, logits.in_stride, in_last};
      const ColumnTile<In, vectors> dx{gradients.out + first, gradients.out_stride, in_last};
      const ColumnTile<const Scalar, vectors> t{
          has_targets ? logits.targets + first : nullptr, logits.target_stride, in_last};
      L max[vectors], scale[vectors], factor[vectors], share[vectors];
      tile_lanes(RowValues<Scalar>{logits.max, 1}, first, in_last, max);
      tile_lanes(gradients.scale, first, in_last, scale);
      tile_lanes(gradients.factor, first, in_last, factor);
      tile_lanes(gradients.share, first, in_last, share);
      for (L& lanes : max) lanes = finite_base(lanes);
      for (int64_t j = 0; j < logits.length; ++j)
        unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
          L weight(Scalar(1)), target(Scalar(0));
          if constexpr (has_targets) target = t.load(j, v);
          if constexpr (has_weights) weight = L(logits.weights[j]);
          const L u = logits.of_classes(weight, target);
          const L term = exponential((x.load(j, v) - max[v]) * scale[v]);
          dx.store(j, v, term * factor[v] - u * share[v]);
        });
    });
  });
}

template <typename In>
constexpr WeightedLossKernels<In> kernels() {
  return {cap<In>, weigh_rows<In>, weigh_columns<In>, rows<In>, columns<In>};
}

}  // namespace

const ByType<WeightedLossKernels> weighted_loss_table = {
    kernels<float>(), kernels<double>(), kernels<BFloat16>(), kernels<Float16>()};

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
