#pragma once
// One definition of each operator for both backends. A row operator is a summary of a row, which
// merges in any order, and a map of the row's elements:
//
//   Element                              what is read at one column
//   Output                               what is written at one column
//   padding()                            the element that changes no summary
//   empty(), summarize(elements, count)  the summary of nothing, of a chunk: whatever yields
//                                        elements[i], unpacked on use in a kernel
//   merge(a, b)                          the summary of both
//   constants(summary)                   what the map needs to know of the whole row
//   map(element, constants)              the output at one column
//
// Where a part of a row is held as a whole, a summary is Σ of one term per element. With kHasMax
// terms are measured from the part's maximum, and can be kept for the map:
//
//   term(element), term(element, max)    what is summed
//   summary_of(max, sum, maxima)         the summary, where `maxima` elements are the maximum
//   map_term(term, constants)            the output; only with kMapsTerms
//   rescaled(constants, factor)          constants for terms that are 1 / factor times as large
//
// With kSumsDistances (entropy.h) a summary also has Σ term · distance(element, max), the last argument
// of summary_of.
//
// | operator           | element | summary          | each element becomes             |
// | ------------------ | ------- | ---------------- | -------------------------------- |
// | softmax            | x       | SoftmaxSummary   | exp((x − max)/T) / sum           |
// | log_softmax        | x       | SoftmaxSummary   | (x − max)/T − log sum            |
// | softmax backward   | dy, y   | Σ dy·y           | y · (dy − Σ) / T                 |
// | log_softmax backw. | dy, y   | Σ dy             | (dy − exp(y) · Σ) / T            |
// | logsumexp          | x       | SoftmaxSummary   | – (the row yields max/T + log sum) |
// | logsumexp backward | x       | SoftmaxSummary   | dy · exp((x − max)/T) / sum / T  |
//
// `Lane` is the type arithmetic is done in (float for 16-bit types), `Total` that of sums. `scale`
// is 1/T, T the temperature: the row is shifted first and scaled then, since x/T alone can
// overflow.

#include "csrc/numerics/softmax_summary.h"

namespace softmax_ext {

// leaves_out_maxima: whether sums keep what is lost beside the maximum's own 1 (SoftmaxSummary).
template <typename Lane, typename Total, bool leaves_out_maxima = true>
struct OverLogits {
  using Element = Lane;
  using Output = Lane;
  using Summary = SoftmaxSummary<Lane, Total>;
  static constexpr bool kHasMax = true;
  static constexpr bool kLeavesOutMaxima = leaves_out_maxima;
  static constexpr bool kSumsDistances = false;

  Lane scale;

  SOFTMAX_EXT_HOST_DEVICE static Element padding() { return -kInfinity<Lane>; }
  SOFTMAX_EXT_HOST_DEVICE static Summary empty() { return Summary::empty(); }
  template <typename Elements>
  SOFTMAX_EXT_HOST_DEVICE Summary summarize(const Elements& logits, int count) const {
    return summarize_logits<Total, Lane>(logits, count, scale);
  }
  SOFTMAX_EXT_HOST_DEVICE Summary merge(Summary a, Summary b) const {
    return softmax_ext::merge(a, b, scale);
  }
  template <int offset>
  SOFTMAX_EXT_HOST_DEVICE ShiftedExponential<Lane, offset> terms_from(Lane max) const {
    return {max, scale};
  }
  SOFTMAX_EXT_HOST_DEVICE Lane term(Lane logit, Lane max) const {
    return exponential(scaled_distance(logit, max, scale));
  }
  SOFTMAX_EXT_HOST_DEVICE static Summary summary_of(Lane max, Total sum, Total maxima) {
    if constexpr (!leaves_out_maxima) return {max, sum - Total(1)};
    const auto is_empty = max == Lane(-kInfinity<ScalarOf<Lane>>);
    return {max, sum + select(is_empty, Total(-1), maxima - Total(1))};
  }

  // A row without probabilities, by its logits or by an invalid temperature.
  SOFTMAX_EXT_HOST_DEVICE auto is_undefined(Summary summary) const {
    return summary.is_undefined() | (scale != scale);
  }
};

template <typename Lane, typename Total = Lane>
struct SoftmaxForward : OverLogits<Lane, Total, false> {
  using typename OverLogits<Lane, Total, false>::Summary;
  using OverLogits<Lane, Total, false>::scale;
  static constexpr bool kMapsTerms = true;

  struct Constants {
    Lane max;
    Lane inverse_sum;
  };

  SOFTMAX_EXT_HOST_DEVICE Constants constants(Summary summary) const {
    const Lane undefined(kNaN<ScalarOf<Lane>>);
    return {summary.max, select(this->is_undefined(summary), undefined, Lane(1 / summary.sum()))};
  }
  SOFTMAX_EXT_HOST_DEVICE Lane map(Lane logit, Constants row) const {
    return exponential(scaled_distance(logit, row.max, scale)) * row.inverse_sum;
  }
  SOFTMAX_EXT_HOST_DEVICE static Lane map_term(Lane term, Constants row) {
    return term * row.inverse_sum;
  }
  SOFTMAX_EXT_HOST_DEVICE static Constants rescaled(Constants row, Lane factor) {
    return {row.max, row.inverse_sum * factor};
  }
};

template <typename Lane, typename Total = Lane>
struct LogSoftmaxForward : OverLogits<Lane, Total> {
  using typename OverLogits<Lane, Total>::Summary;
  using OverLogits<Lane, Total>::scale;
  static constexpr bool kMapsTerms = false;

  struct Constants {
    Lane max;
    Lane log_sum;
  };

  SOFTMAX_EXT_HOST_DEVICE Constants constants(Summary summary) const {
    const Lane undefined(kNaN<ScalarOf<Lane>>);
    return {summary.max, select(this->is_undefined(summary), undefined, Lane(summary.log_sum()))};
  }
  SOFTMAX_EXT_HOST_DEVICE Lane map(Lane logit, Constants row) const {
    return scaled_distance(logit, row.max, scale) - row.log_sum;
  }
  // Where the temperature is not one of its limits.
  SOFTMAX_EXT_HOST_DEVICE Lane usual_map(Lane logit, Constants row) const {
    return (logit - row.max) * scale - row.log_sum;
  }
};

template <typename Lane, typename Total = Lane>
struct LogSumExpForward : OverLogits<Lane, Total> {
  using typename OverLogits<Lane, Total>::Summary;
  using OverLogits<Lane, Total>::scale;

  // −inf for no logits or −inf alone, +inf with a +inf; NaN at T = 0, where the value has no limit.
  SOFTMAX_EXT_HOST_DEVICE Lane result(Lane max, Total log_sum) const {
    const bool is_valid = scale >= 0 && scale < kInfinity<Lane>;
    return is_valid ? Lane(Total(scaled_distance(max, Lane(0), scale)) + log_sum) : kNaN<Lane>;
  }
  SOFTMAX_EXT_HOST_DEVICE Lane result(Summary summary) const {
    return result(summary.max, summary.log_sum());
  }
};

template <typename Lane, typename Total = Lane>
struct LogSumExpBackward : OverLogits<Lane, Total, false> {
  using typename OverLogits<Lane, Total, false>::Summary;
  using OverLogits<Lane, Total, false>::scale;
  static constexpr bool kMapsTerms = true;

  Lane grad;  // of the row's log-sum-exp

  struct Constants {
    Lane max;
    Lane factor;
  };

  // A row of −inf alone takes no gradient (torch: NaN). With a +inf only its own column is NaN, as
  // in torch.
  SOFTMAX_EXT_HOST_DEVICE Constants constants(Summary summary) const {
    const Lane infinity(kInfinity<ScalarOf<Lane>>);
    const Lane none(0);
    const auto is_empty =
        (summary.max == -infinity) & (summary.rest == Total(-1)) & (scale == scale);
    const auto has_infinity = (summary.max == infinity) & (summary.rest == summary.rest);
    const Lane inverse_sum = select(has_infinity, none, Lane(1 / summary.sum()));
    const Lane factor = grad * inverse_sum * gradient_scale(scale);
    return {select(is_empty, none, summary.max), select(is_empty, none, factor)};
  }
  SOFTMAX_EXT_HOST_DEVICE Lane map(Lane logit, Constants row) const {
    return exponential(scaled_distance(logit, row.max, scale)) * row.factor;
  }
  SOFTMAX_EXT_HOST_DEVICE static Lane map_term(Lane term, Constants row) {
    return term * row.factor;
  }
  SOFTMAX_EXT_HOST_DEVICE static Constants rescaled(Constants row, Lane factor) {
    return {row.max, row.factor * factor};
  }
};

// A gradient and the forward output at one column.
template <typename Lane>
struct GradientElement {
  Lane grad;
  Lane output;
};

template <typename Lane, typename Total>
struct OverGradients {
  using Element = GradientElement<Lane>;
  using Output = Lane;
  using Summary = Total;
  using Constants = Lane;
  static constexpr bool kHasMax = false;
  static constexpr bool kMapsTerms = false;

  Lane scale;

  SOFTMAX_EXT_HOST_DEVICE static Element padding() { return {Lane(0), Lane(0)}; }
  SOFTMAX_EXT_HOST_DEVICE static Summary empty() { return Total(0); }
  SOFTMAX_EXT_HOST_DEVICE Summary merge(Summary a, Summary b) const { return a + b; }
  SOFTMAX_EXT_HOST_DEVICE Constants constants(Summary summary) const { return Lane(summary); }
};

template <typename Lane, typename Total = Lane>
struct SoftmaxBackward : OverGradients<Lane, Total> {
  using Element = GradientElement<Lane>;
  using OverGradients<Lane, Total>::scale;

  template <typename Elements>
  SOFTMAX_EXT_HOST_DEVICE Total summarize(const Elements& elements, int count) const {
    Total dot = 0;
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < count; ++i) {
      const Element element = elements[i];
      dot += Total(element.grad) * Total(element.output);
    }
    return dot;
  }
  SOFTMAX_EXT_HOST_DEVICE static Lane term(Element element) {
    return element.grad * element.output;
  }
  SOFTMAX_EXT_HOST_DEVICE Lane map(Element element, Lane dot) const {
    return usual_map(element, dot, gradient_scale(scale));
  }
  SOFTMAX_EXT_HOST_DEVICE static Lane usual_map(Element element, Lane dot, Lane factor) {
    return element.output * (element.grad - dot) * factor;
  }
};

template <typename Lane, typename Total = Lane>
struct LogSoftmaxBackward : OverGradients<Lane, Total> {
  using Element = GradientElement<Lane>;
  using OverGradients<Lane, Total>::scale;

  template <typename Elements>
  SOFTMAX_EXT_HOST_DEVICE Total summarize(const Elements& elements, int count) const {
    Total sum = 0;
    SOFTMAX_EXT_UNROLL
    for (int i = 0; i < count; ++i) sum += Total(Element(elements[i]).grad);
    return sum;
  }
  SOFTMAX_EXT_HOST_DEVICE static Lane term(Element element) { return element.grad; }
  SOFTMAX_EXT_HOST_DEVICE Lane map(Element element, Lane sum) const {
    return usual_map(element, sum, gradient_scale(scale));
  }
  SOFTMAX_EXT_HOST_DEVICE static Lane usual_map(Element element, Lane sum, Lane factor) {
    return (element.grad - exponential(element.output) * sum) * factor;
  }
};

}  // namespace softmax_ext
