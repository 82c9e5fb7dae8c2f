// The gradients of softmax and log_softmax.

#include "csrc/cpu/simd/columns.h"
#include "csrc/cpu/simd/rows.h"

namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL {
namespace {

// What is summed over a row, in lanes.
template <template <typename, typename> class Operator, typename L>
SOFTMAX_EXT_INLINE L term(L grad, L output) {
  return Operator<L, L>::term({grad, output});
}

template <template <typename, typename> class Operator, typename Out>
double summarize(const Out* grad, const Out* output, int64_t count) {
  using Scalar = LaneOf<Out>;
  using L = Lanes<Scalar>;
  const L none(Scalar(0));
  Total<Scalar> total(0.0);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = count - begin < kBlock ? count - begin : kBlock;
    const Out* const dy = grad + begin;
    const Out* const y = output + begin;
    L sum[kUnroll] = {none, none, none, none};
    for_each_vector(
        size,
        L::kCount,
        [&](int64_t at, auto i) SOFTMAX_EXT_INLINE_LAMBDA {
          const auto grads = load_pair(dy + at);
          const auto outputs = load_pair(y + at);
          sum[i] += term<Operator>(grads.first, outputs.first);
          sum[i + 1] += term<Operator>(grads.second, outputs.second);
        },
        [&](int64_t at, auto i)
            SOFTMAX_EXT_INLINE_LAMBDA { sum[i] += term<Operator>(load(dy + at), load(y + at)); },
        [&](int64_t at, int some, auto i) SOFTMAX_EXT_INLINE_LAMBDA {
          sum[i] += term<Operator>(load_some(dy + at, some, none), load_some(y + at, some, none));
        });
    total.add((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  return total.sum();
}

template <template <typename, typename> class Operator, typename Out, typename In>
void finish(
    const Out* grad,
    const Out* output,
    In* grad_input,
    int64_t count,
    LaneOf<Out> sum,
    LaneOf<Out> scale) {
  using L = Lanes<LaneOf<Out>>;
  map_span(
      count,
      grad_input,
      [&](L dy, L y) SOFTMAX_EXT_INLINE_LAMBDA {
        return Operator<L, L>::usual_map({dy, y}, L(sum), L(scale));
      },
      grad,
      output);
}

template <template <typename, typename> class Operator, typename Out, typename In>
void columns(const Gradients<Out, In>& gradients) {
  using Scalar = LaneOf<Out>;
  using L = Lanes<Scalar>;
  constexpr int kHalfTile = kTile / 2;
  for_each_tile<Scalar, kHalfTile>(gradients.count, [&]<int vectors>(int64_t first, int in_last) {
    const ColumnTile<const Out, vectors> dy{gradients.grad + first, gradients.grad_stride, in_last};
    const ColumnTile<const Out, vectors> y{
        gradients.output + first, gradients.output_stride, in_last};
    const ColumnTile<In, vectors> dx{
        gradients.grad_input + first, gradients.grad_input_stride, in_last};
    L scale[vectors], sum[vectors];
    tile_lanes(gradients.scale, first, in_last, scale);
    Total<Scalar> total[vectors];
    column_sums(gradients.length, total, [&](int64_t j, int v) SOFTMAX_EXT_INLINE_LAMBDA {
      return term<Operator>(dy.load(j, v), y.load(j, v));
    });
    for (int v = 0; v < vectors; ++v) sum[v] = total[v].rounded();
    for (int64_t j = 0; j < gradients.length; ++j)
      unrolled<vectors>([&](auto v) SOFTMAX_EXT_INLINE_LAMBDA {
        dx.store(j, v, Operator<L, L>::usual_map({dy.load(j, v), y.load(j, v)}, sum[v], scale[v]));
      });
  });
}

template <int vectors, template <typename, typename> class Operator, typename Out, typename In>
SOFTMAX_EXT_INLINE void short_rows(const Gradients<Out, In>& gradients, int in_last) {
  using L = Lanes<LaneOf<Out>>;
  const auto tile = [&](auto* data, int64_t stride, int64_t first) SOFTMAX_EXT_INLINE_LAMBDA {
    return ColumnTile<std::remove_pointer_t<decltype(data)>, vectors>{
        data + first * stride, stride, in_last};
  };
  for_each_batch<LaneOf<Out>>(
      gradients.count, [&](int64_t first, int count) SOFTMAX_EXT_INLINE_LAMBDA {
        const auto dy = tile(gradients.grad, gradients.grad_stride, first);
        const auto y = tile(gradients.output, gradients.output_stride, first);
        const auto dx = tile(gradients.grad_input, gradients.grad_input_stride, first);
        const BatchValues<L> scale(lanes_of(gradients.scale, first, count));
        BatchVectors<L> sums(count);
        for (int r = 0; r < count; ++r) {
          L of_row(LaneOf<Out>(0));
          L grads[vectors];
          visit_row<kComesInPairs<Out>>(
              dy, r, 0, [&](auto v, L lanes) SOFTMAX_EXT_INLINE_LAMBDA { grads[v] = lanes; });
          visit_row<kComesInPairs<Out>>(y, r, 0, [&](auto v, L lanes) SOFTMAX_EXT_INLINE_LAMBDA {
            of_row += term<Operator>(grads[v], lanes);
          });
          sums.of_row[r] = of_row;
        }
        const BatchValues<L> sum(sums.sums());
        for (int r = 0; r < count; ++r)
          map_row(
              dx,
              r,
              [&](L grad, L output) SOFTMAX_EXT_INLINE_LAMBDA {
                return Operator<L, L>::usual_map({grad, output}, sum[r], scale[r]);
              },
              dy,
              y);
      });
}

template <template <typename, typename> class Operator, typename Out, typename In>
void rows(const Gradients<Out, In>& gradients) {
  using Scalar = LaneOf<Out>;
  const int64_t length = gradients.length;
  if (length <= kShort<Scalar>) {
    const int some = static_cast<int>(length);
    Transposed<Scalar> dy, y, dx;
    for_each_block<Scalar>(gradients.count, [&](int64_t first, int count) {
      dy.read(gradients.grad + first * gradients.grad_stride, gradients.grad_stride, count, some);
      y.read(
          gradients.output + first * gradients.output_stride, gradients.output_stride, count, some);
      columns<Operator>(Gradients<Scalar, Scalar>{
          dy.elements,
          dy.kRows,
          y.elements,
          y.kRows,
          dx.elements,
          dx.kRows,
          count,
          length,
          gradients.scale.from(first)});
      dx.write(
          gradients.grad_input + first * gradients.grad_input_stride,
          gradients.grad_input_stride,
          count,
          some);
    });
    return;
  }
  if (length <= kBatchLength<Scalar>) {
    with_vectors_of<Scalar>(length, [&]<int vectors>(int in_last) SOFTMAX_EXT_INLINE_LAMBDA {
      short_rows<vectors, Operator>(gradients, in_last);
    });
    return;
  }
  for (int64_t row = 0; row < gradients.count; ++row) {
    const Out* const dy = gradients.grad + row * gradients.grad_stride;
    const Out* const y = gradients.output + row * gradients.output_stride;
    In* const dx = gradients.grad_input + row * gradients.grad_input_stride;
    const double sum = summarize<Operator>(dy, y, length);
    finish<Operator>(dy, y, dx, length, static_cast<Scalar>(sum), gradients.scale[row]);
  }
}

template <template <typename, typename> class Operator, typename Out, typename In>
constexpr BackwardKernels<Out, In> kernels() {
  return {
      rows<Operator, Out, In>,
      columns<Operator, Out, In>,
      summarize<Operator, Out>,
      finish<Operator, Out, In>};
}
template <template <typename, typename> class Operator>
constexpr ByTypes<BackwardKernels> table() {
  return {
      kernels<Operator, float, float>(),
      kernels<Operator, double, double>(),
      kernels<Operator, BFloat16, BFloat16>(),
      kernels<Operator, Float16, Float16>(),
      kernels<Operator, BFloat16, float>(),
      kernels<Operator, Float16, float>()};
}

}  // namespace

const ByTypes<BackwardKernels> softmax_backward_table = table<SoftmaxBackward>();
const ByTypes<BackwardKernels> log_softmax_backward_table = table<LogSoftmaxBackward>();

}  // namespace softmax_ext::simd::SOFTMAX_EXT_LEVEL
