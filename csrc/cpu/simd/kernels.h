#pragma once
// The inner loops of the CPU backend, compiled once per instruction set, and the tables by which
// they are called. No torch here, and nothing from the standard library that could be shared by
// objects of two instruction sets.
//
// Three kinds of kernel make every operator:
//   rows     whole rows, each contiguous and, unless it says otherwise, of at most kChunk elements
//   columns  whole rows whose neighbours are contiguous: element j of row r is at j · stride + r
//   chunks   a part of a longer row: `summarize`, then `finish` once the summaries are merged
//
// In- and output may be the same memory, but for the gradient of logsumexp.

#include "csrc/cpu/simd/element.h"
#include "csrc/numerics/cross_entropy.h"
#include "csrc/numerics/entropy.h"
#include "csrc/numerics/logit_moments.h"

namespace softmax_ext::simd {

// Longer rows are worked on in chunks of so many elements, whatever the number of threads; a chunk
// and its terms stay in the L1 cache.
inline constexpr int64_t kChunk = 4096;
// What columns are worked on at once; a thread's share is a multiple of it.
inline constexpr int64_t kColumns = 128;
// Of longer columns, terms of another type than the output's are made again: to keep them would take
// more memory than the tensors.
inline constexpr int64_t kKeptLength = 4096;

template <typename T>
using Summary = SoftmaxSummary<LaneOf<T>, double>;

// A value for each row, or with stride 0 one for all.
template <typename Lane>
struct RowValues {
  const Lane* data;
  int64_t stride;

  SOFTMAX_EXT_HOST_DEVICE Lane operator[](int64_t row) const { return data[row * stride]; }
  SOFTMAX_EXT_HOST_DEVICE RowValues from(int64_t row) const {
    return {data + row * stride, stride};
  }
};

// Rows or columns of logits that become as many of an output.
template <typename In, typename Out>
struct Logits {
  Pointer<const In> in;
  int64_t in_stride;
  Out* out;
  int64_t out_stride;
  int64_t count;
  int64_t length;
  RowValues<LaneOf<In>> scale;  // 1/T, positive and finite
  LaneOf<In>* scratch;         // room for the terms of a row, or of kColumns of at most kKeptLength
  RowValues<LaneOf<In>> grad;  // only backwards of a reduction: that of each row's result
};

template <typename In, typename Out>
struct SoftmaxKernels {
  void (*rows)(const Logits<In, Out>&);
  void (*columns)(const Logits<In, Out>&);
  Summary<In> (*summarize)(const In* x, LaneOf<In>* terms, int64_t count, LaneOf<In> scale);
  void (*finish)(const LaneOf<In>* terms, Out* y, int64_t count, LaneOf<In> factor);
};

// What is left of longer rows is SoftmaxKernels' to do.
template <typename In, typename Out>
struct MaskedSoftmaxKernels {
  void (*rows)(const Logits<Masked<In>, Out>&);
  void (*columns)(const Logits<Masked<In>, Out>&);
  Summary<In> (*summarize)(MaskedPointer<In> x, LaneOf<In>* terms, int64_t count, LaneOf<In> scale);
};

template <typename In, typename Out>
struct LogSoftmaxKernels {
  void (*rows)(const Logits<In, Out>&);
  void (*columns)(const Logits<In, Out>&);
  void (*finish)(
      const In* x, Out* y, int64_t count, LaneOf<In> max, LaneOf<In> scale, LaneOf<In> log_sum);
};

// Rows or columns of logits, of which the maximum and log Σ exp((x − max) · scale) are wanted.
template <typename In>
struct Reduction {
  const In* in;
  int64_t in_stride;
  int64_t count;
  int64_t length;
  RowValues<LaneOf<In>> scale;
  LaneOf<In>* max;
  LaneOf<In>* log_sum;
  LaneOf<In>* mean_distance = nullptr;  // only EntropyKernels: Σ p · D
};

template <typename In>
struct ReductionKernels {
  using Summary = simd::Summary<In>;

  void (*rows)(const Reduction<In>&);
  void (*columns)(const Reduction<In>&);
  Summary (*summarize)(const In* x, int64_t count, LaneOf<In> scale);
};

template <typename In>
struct EntropyKernels {
  using Summary = EntropySummary<LaneOf<In>, double>;

  void (*rows)(const Reduction<In>&);
  void (*columns)(const Reduction<In>&);
  Summary (*summarize)(const In* x, int64_t count, LaneOf<In> scale);
};

template <typename In>
struct EntropyBackwardKernels {
  void (*rows)(const Logits<In, In>&);
  void (*columns)(const Logits<In, In>&);
  // Of a row whose constants are known: exp(−D) · (D − mean_distance) · factor.
  void (*finish)(
      const In* x,
      In* y,
      int64_t count,
      LaneOf<In> scale,
      const typename EntropyBackward<LaneOf<In>>::Constants& row);
};

// Longer rows are SoftmaxKernels' to do, with other constants, and but for those with a +inf.
template <typename In>
struct LogSumExpBackwardKernels {
  void (*rows)(const Logits<In, In>&);
  void (*columns)(const Logits<In, In>&);
  // A row that has one: the gradient is NaN there, and 0 elsewhere unless a logit is NaN.
  void (*beside_infinity)(
      const In* x, int64_t x_stride, In* y, int64_t y_stride, int64_t count, LaneOf<In> grad);
};

// exp(x − max) · factor: the gradient of every logit but that of the true class.
template <typename In>
struct CrossEntropyGradients {
  const In* in;
  int64_t in_stride;
  In* out;
  int64_t out_stride;
  int64_t count;
  int64_t length;
  RowValues<LaneOf<In>> max;
  RowValues<LaneOf<In>> factor;
};

template <typename In>
struct CrossEntropyKernels {
  // As ReductionKernels', and the terms are kept for SoftmaxKernels::finish: of row r at r · stride.
  void (*reduce)(const Reduction<In>&, LaneOf<In>* terms, int64_t stride);
  Summary<In> (*summarize)(const In* x, LaneOf<In>* terms, int64_t count);
  // Where no terms were kept.
  void (*rows)(const CrossEntropyGradients<In>&);  // of any length
  void (*columns)(const CrossEntropyGradients<In>&);
  // What the map needs, of `count` rows: exp(−log_sum) · grad, and expm1((x − max) − log_sum) · grad
  // with x the target's logit, which comes in in `true_class`. `factor` may be `grad`.
  void (*constants)(
      int64_t count,
      const LaneOf<In>* max,
      const LaneOf<In>* log_sum,
      const LaneOf<In>* grad,
      LaneOf<In>* factor,
      LaneOf<In>* true_class);
};

// Rows or columns of logits, and the weights of their classes in a loss with options
// (csrc/numerics/cross_entropy.h).
template <typename In>
struct WeightedLogits {
  const In* in;
  int64_t in_stride;
  int64_t count;
  int64_t length;
  const LaneOf<In>* targets;  // probabilities, or null; as the logits, with their own stride
  int64_t target_stride;
  const LaneOf<In>* weights;  // of the classes, or null: 1
  ClassWeights<LaneOf<In>> of_classes;
  const LaneOf<In>* max;  // of each row
};
template <typename In>
struct WeightedGradients {
  WeightedLogits<In> logits;
  In* out;
  int64_t out_stride;
  RowValues<LaneOf<In>> scale;
  RowValues<LaneOf<In>> factor;
  RowValues<LaneOf<In>> share;
  LaneOf<In> softcap;  // of which the logits are, or 0: rows alone
};

template <typename In>
struct WeightedLossKernels {
  // s · tanh(x/s); in place where the types are the same.
  void (*cap)(const In* x, LaneOf<In>* y, int64_t count, LaneOf<In> softcap);
  // Of each row: Σ u_j · (x_j − max), unless that is null, and where there are targets Σ u_j.
  void (*weigh_rows)(const WeightedLogits<In>&, double* distances, double* spreads);
  void (*weigh_columns)(const WeightedLogits<In>&, double* distances, double* spreads);
  // Of every logit but that of the true class; of any length.
  void (*rows)(const WeightedGradients<In>&);
  void (*columns)(const WeightedGradients<In>&);
};

// Rows or columns of logits, whose moments are wanted (LogitMoments), each of them in an array of
// one per row, with room for a whole vector after the last.
template <typename In>
struct Moments {
  const In* in;
  int64_t in_stride;
  int64_t count;
  int64_t length;
  LaneOf<In> scale;
  LaneOf<In>* max;
  double* rest;
  double* first;
  double* second;
};

template <typename In>
struct MomentsKernels {
  void (*rows)(const Moments<In>&);
  void (*columns)(const Moments<In>&);
  LogitMoments<LaneOf<In>> (*summarize)(const In* x, int64_t count, LaneOf<In> scale);
};

// The gradient of an output, that output, and where the gradient of the logits goes.
template <typename Out, typename In>
struct Gradients {
  const Out* grad;
  int64_t grad_stride;
  const Out* output;
  int64_t output_stride;
  In* grad_input;
  int64_t grad_input_stride;
  int64_t count;
  int64_t length;
  RowValues<LaneOf<Out>> scale;  // the factor d(x/T)/dx
};

template <typename Out, typename In>
struct BackwardKernels {
  void (*rows)(const Gradients<Out, In>&);
  void (*columns)(const Gradients<Out, In>&);
  double (*summarize)(const Out* grad, const Out* output, int64_t count);
  void (*finish)(
      const Out* grad,
      const Out* output,
      In* grad_input,
      int64_t count,
      LaneOf<Out> sum,
      LaneOf<Out> scale);
};

// Of the logits of a gather that are in its range: how many, and their weight; and the weight of those
// that are beyond it.
struct Gathered {
  int64_t count;
  double above;
  double inside;
};

// Parts of a row for sampling. The terms exp((x − base) · scale) are those of logits ≥ `threshold`,
// which is a number: −inf and what is beyond the end are never among them.
template <typename In>
struct SamplingKernels {
  using Lane = LaneOf<In>;
  // NaN if there is one; −inf for no element.
  Lane (*maximum)(const In* x, int64_t count);
  double (*kept_sum)(const In* x, int64_t count, Lane base, Lane scale, Lane threshold);
  // Those in [low, high) in order, where up to a vector of lanes after them is written too. A logit
  // weighs 1, or its term.
  using Gather = Gathered(
      const In* x, int64_t count, Lane base, Lane scale, Lane low, Lane high, Lane* gathered);
  Gather* gather_counted;
  Gather* gather_weighed;
  void (*terms)(const In* x, int64_t count, Lane base, Lane scale, Lane* out);
  // The first index at which the sum of the terms exceeds `target`, or the last one with a term that
  // is not 0; −1 if there is none.
  int64_t (*pick)(const In* x, int64_t count, Lane base, Lane scale, Lane threshold, double target);
};

// One member per pair of types that has kernels of its own; see of_types() in csrc/cpu/levels.h.
template <template <typename, typename> class Kernels>
struct ByTypes {
  Kernels<float, float> f32;
  Kernels<double, double> f64;
  Kernels<BFloat16, BFloat16> bf16;
  Kernels<Float16, Float16> f16;
  Kernels<BFloat16, float> bf16_f32;
  Kernels<Float16, float> f16_f32;
};
template <template <typename> class Kernels>
struct ByType {
  Kernels<float> f32;
  Kernels<double> f64;
  Kernels<BFloat16> bf16;
  Kernels<Float16> f16;
};

struct Kernels {
  const char* level;
  const ByTypes<SoftmaxKernels>* softmax;
  const ByTypes<LogSoftmaxKernels>* log_softmax;
  const ByTypes<BackwardKernels>* softmax_backward;
  const ByTypes<BackwardKernels>* log_softmax_backward;
  const ByType<ReductionKernels>* reduction;
  const ByType<LogSumExpBackwardKernels>* logsumexp_backward;
  const ByType<CrossEntropyKernels>* cross_entropy;
  const ByType<WeightedLossKernels>* weighted_loss;
  const ByType<MomentsKernels>* moments;
  const ByType<SamplingKernels>* sampling;
  const ByType<EntropyKernels>* entropy;
  const ByType<EntropyBackwardKernels>* entropy_backward;
  const ByTypes<MaskedSoftmaxKernels>* masked_softmax;
};

// The objects of one instruction set.
#define SOFTMAX_EXT_TABLES(level)                                         \
  namespace level {                                                       \
  extern const ByTypes<SoftmaxKernels> softmax_table;                     \
  extern const ByTypes<LogSoftmaxKernels> log_softmax_table;              \
  extern const ByTypes<BackwardKernels> softmax_backward_table;           \
  extern const ByTypes<BackwardKernels> log_softmax_backward_table;       \
  extern const ByType<ReductionKernels> reduction_table;                  \
  extern const ByType<LogSumExpBackwardKernels> logsumexp_backward_table; \
  extern const ByType<CrossEntropyKernels> cross_entropy_table;           \
  extern const ByType<WeightedLossKernels> weighted_loss_table;           \
  extern const ByType<MomentsKernels> moments_table;                      \
  extern const ByType<SamplingKernels> sampling_table;                    \
  extern const ByType<EntropyKernels> entropy_table;                      \
  extern const ByType<EntropyBackwardKernels> entropy_backward_table;     \
  extern const ByTypes<MaskedSoftmaxKernels> masked_softmax_table;        \
  }

SOFTMAX_EXT_TABLES(portable)
#if defined(__x86_64__)
SOFTMAX_EXT_TABLES(avx2)
SOFTMAX_EXT_TABLES(avx512)
#endif
#undef SOFTMAX_EXT_TABLES

}  // namespace softmax_ext::simd
