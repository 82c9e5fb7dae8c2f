#pragma once
// Rows of logits that become rows of an output: softmax, log_softmax, and the gradients of logsumexp
// and of the entropy.
// An operator on the CPU is a class of
//
//   table()                               its kernels, of rows and of columns
//   Summary                               of a chunk, merged by merge()
//   kKeepsTerms                           whether `begin` leaves terms that `end` starts from
//   begin(x, terms, count, scale)         the summary of a chunk
//   end(x, terms, y, count, chunk, row)   its output, once the row's summary is known

#include <ATen/ops/empty_like.h>

#include "csrc/cpu/walk_rows.h"

namespace softmax_ext::cpu {

// A row's summary, and what the output of each chunk depends on.
template <typename Lane, typename Summary = SoftmaxSummary<Lane, double>>
struct LongRow {
  Summary summary;
  Lane scale;
  Lane grad;
};

template <typename In, typename Out>
struct SoftmaxRows {
  using Lane = simd::LaneOf<In>;
  using Summary = SoftmaxSummary<Lane, double>;
  static constexpr bool kKeepsTerms = true;
  static constexpr bool kHasGrad = false;

  static const auto& table() { return of_types<In, Out>(*kernels().softmax); }
  static auto begin(const In* x, Lane* terms, int64_t count, Lane scale) {
    return table().summarize(x, terms, count, scale);
  }
  static void end(
      const In*, const Lane* terms, Out* y, int64_t count, Lane max, const LongRow<Lane>& row) {
    // In double: one rounding.
    const SoftmaxForward<double> op{{double(row.scale)}};
    const auto constants = op.constants({double(row.summary.max), row.summary.rest});
    const double factor = op.map(double(max), constants);
    table().finish(terms, y, count, static_cast<Lane>(factor));
  }
};

template <typename In, typename Out>
struct LogSoftmaxRows {
  using Lane = simd::LaneOf<In>;
  using Summary = SoftmaxSummary<Lane, double>;
  static constexpr bool kKeepsTerms = false;
  static constexpr bool kHasGrad = false;

  static const auto& table() { return of_types<In, Out>(*kernels().log_softmax); }
  static auto begin(const In* x, Lane*, int64_t count, Lane scale) {
    return of_type<In>(*kernels().reduction).summarize(x, count, scale);
  }
  static void end(const In* x, const Lane*, Out* y, int64_t count, Lane, const LongRow<Lane>& row) {
    const LogSoftmaxForward<Lane, double> op{{row.scale}};
    const auto constants = op.constants(row.summary);
    table().finish(x, y, count, constants.max, row.scale, constants.log_sum);
  }
};

template <typename In, typename Out>
struct LogSumExpGradientRows {
  using Lane = simd::LaneOf<In>;
  using Summary = SoftmaxSummary<Lane, double>;
  static constexpr bool kKeepsTerms = true;
  static constexpr bool kHasGrad = true;

  static const auto& table() { return of_type<In>(*kernels().logsumexp_backward); }
  static const auto& softmax() { return of_types<In, Out>(*kernels().softmax); }
  static auto begin(const In* x, Lane* terms, int64_t count, Lane scale) {
    return softmax().summarize(x, terms, count, scale);
  }
  static void end(
      const In*, const Lane* terms, Out* y, int64_t count, Lane max, const LongRow<Lane>& row) {
    const LogSumExpBackward<double> op{{double(row.scale)}, double(row.grad)};
    const auto constants = op.constants({double(row.summary.max), row.summary.rest});
    softmax().finish(terms, y, count, static_cast<Lane>(op.map(double(max), constants)));
  }
};

template <typename In, typename Out>
struct EntropyGradientRows {
  using Lane = simd::LaneOf<In>;
  using Summary = EntropySummary<Lane, double>;
  static constexpr bool kKeepsTerms = false;
  static constexpr bool kHasGrad = true;

  static const auto& table() { return of_type<In>(*kernels().entropy_backward); }
  static auto begin(const In* x, Lane*, int64_t count, Lane scale) {
    return of_type<In>(*kernels().entropy).summarize(x, count, scale);
  }
  static void end(
      const In* x, const Lane*, In* y, int64_t count, Lane, const LongRow<Lane, Summary>& row) {
    const EntropyBackward<Lane, double> op{{{row.scale}}, row.grad};
    const auto constants = op.constants(row.summary);
    table().finish(
        x, y, count, row.scale, {constants.max, constants.mean_distance, constants.factor});
  }
};

// `in` is TensorRows, or what has its members.
template <
    template <typename, typename>
    class Operator,
    typename In,
    typename Out,
    typename Source = TensorRows<const In>>
void walk_long_rows(
    const Rows& rows,
    const Source& in,
    const TensorRows<Out>& out,
    RowValues<simd::LaneOf<In>> scales,
    RowValues<simd::LaneOf<In>> grads) {
  using Lane = simd::LaneOf<In>;
  using Op = Operator<In, Out>;
  const int64_t chunks = chunks_of(rows.length);
  const bool are_shared = rows.count() < at::get_num_threads();
  // Of all rows where threads share them, else of the row that a thread is at.
  const int64_t kept = are_shared ? rows.count() : 1;
  constexpr bool kTermsInOutput = sizeof(Out) == sizeof(Lane);
  using Summary = typename Op::Summary;
  struct Memory {
    Summary* summaries;
    LongRow<Lane, Summary>* rows;
    Lane* terms;
  };
  const auto memory_of_thread = [&] {
    const bool has_terms = Op::kKeepsTerms && !kTermsInOutput;
    return Memory{
        scratch<Summary>(kept * chunks),
        scratch<LongRow<Lane, Summary>>(kept),
        has_terms ? scratch<Lane>(kept * rows.length) : nullptr};
  };
  const Memory shared = memory_of_thread();
  const auto memory = [&] { return are_shared ? shared : memory_of_thread(); };
  const auto place = [&](int64_t row) { return are_shared ? row : 0; };
  const auto terms_at = [&](const Memory& in_use, int64_t row, int64_t offset) {
    if constexpr (kTermsInOutput)
      return out[row] + offset;
    else
      return in_use.terms ? in_use.terms + place(row) * rows.length + offset : nullptr;
  };
  for_each_long_row(
      rows,
      [&](int64_t row, int64_t chunk, int64_t offset, int64_t count) {
        const Memory in_use = memory();
        in_use.summaries[place(row) * chunks + chunk] =
            Op::begin(in.elements(row, offset), terms_at(in_use, row, offset), count, scales[row]);
      },
      [&](int64_t row) {
        const Memory in_use = memory();
        const auto* const summaries = in_use.summaries + place(row) * chunks;
        auto summary = summaries[0];
        for (int64_t chunk = 1; chunk < chunks; ++chunk)
          summary = merge(summary, summaries[chunk], scales[row]);
        Lane grad = 0;
        if constexpr (Op::kHasGrad) grad = grads[row];
        in_use.rows[place(row)] = {summary, scales[row], grad};
      },
      [&](int64_t row, int64_t chunk, int64_t offset, int64_t count) {
        const Memory in_use = memory();
        const LongRow<Lane, Summary>& whole = in_use.rows[place(row)];
        if constexpr (requires { Op::table().beside_infinity; }) {
          if (whole.summary.max == kInfinity<Lane>) {
            if (chunk == 0)
              Op::table().beside_infinity(in[row], 1, out[row], 1, rows.length, whole.grad);
            return;
          }
        }
        const In* x = nullptr;
        if constexpr (!Op::kKeepsTerms) x = in.elements(row, offset);
        Op::end(
            x,
            terms_at(in_use, row, offset),
            out[row] + offset,
            count,
            in_use.summaries[place(row) * chunks + chunk].max,
            whole);
      });
}

template <
    template <typename, typename>
    class Operator,
    typename In,
    typename Out,
    typename Source = TensorRows<const In>>
void walk_contiguous(
    const Rows& rows,
    const Source& in,
    const TensorRows<Out>& out,
    RowValues<simd::LaneOf<In>> scales,
    RowValues<simd::LaneOf<In>> grads) {
  using Lane = simd::LaneOf<In>;
  const auto& table = Operator<In, Out>::table();
  const bool are_rows = in.has_rows(rows.length) && out.has_rows(rows.length);
  if (are_rows && rows.length > simd::kChunk)
    return walk_long_rows<Operator, In>(rows, in, out, scales, grads);
  constexpr bool kNeedsScratch = sizeof(Out) < sizeof(Lane);
  const int64_t at_once = are_rows ? 1 : simd::kColumns;
  for_each_range(rows, at_once, [&](int64_t begin, int64_t end) {
    const int64_t kept = are_rows ? rows.length : std::min(rows.length, simd::kKeptLength);
    Lane* const terms = kNeedsScratch ? scratch<Lane>(kept * at_once) : nullptr;
    for_each_run(
        begin,
        end,
        [&](int64_t row, int64_t count) {
          const simd::Logits<typename Source::Element, Out> logits{
              are_rows ? in.rows_from(row) : in.columns_from(row),
              are_rows ? in.offsets.strides[0] : in.length_stride,
              out[row],
              are_rows ? out.offsets.strides[0] : out.length_stride,
              count,
              rows.length,
              scales.from(row),
              terms,
              grads.from(row)};
          (are_rows ? table.rows : table.columns)(logits);
        },
        in,
        out);
  });
}

template <
    template <typename, typename>
    class Operator,
    typename Lane,
    typename Source,
    typename Out>
void walk_staged(
    const Rows& rows,
    const Source& in,
    const TensorRows<Out>& out,
    RowValues<Lane> scales,
    RowValues<Lane> grads) {
  for_each_range(rows, 1, [&](int64_t begin, int64_t end) {
    Lane* const logits = scratch<Lane, 1>(rows.length);
    Lane* const results = scratch<Lane, 2>(rows.length);
    for (int64_t row = begin; row < end; ++row) {
      in.gather_row(row, rows.length, logits);
      apply_limit(logits, rows.length, scales[row]);
      const Lane scale = usual_scale(scales[row]);
      Lane grad = 0;
      if constexpr (Operator<Lane, Lane>::kHasGrad)
        grad = scale == scales[row] ? grads[row] : grads[row] * 0;
      RowOffsets one;
      walk_contiguous<Operator, Lane, Lane>(
          {1, rows.length, 1}, {logits, one, 1}, {results, one, 1}, {&scale, 0}, {&grad, 0});
      scatter(results, rows.length, out[row], out.length_stride);
    }
  });
}

template <template <typename, typename> class Operator, typename Lane, typename In, typename Out>
void walk_logits(
    const Rows& rows,
    const TensorRows<const In>& in,
    const TensorRows<Out>& out,
    const RowScale<Lane>& scales,
    RowValues<Lane> grads = {nullptr, 0}) {
  if (rows.count() == 0 || rows.length == 0) return;
  if constexpr (kHasKernels<In, Out> && std::is_same_v<simd::LaneOf<In>, Lane>) {
    const bool are_rows = in.has_rows(rows.length) && out.has_rows(rows.length);
    if (scales.is_usual() && (are_rows || (in.has_columns() && out.has_columns())))
      return walk_contiguous<Operator, In, Out>(rows, in, out, scales.values(), grads);
  }
  walk_staged<Operator>(rows, in, out, scales.values(), grads);
}

// The gradients of row results in the lanes' type. A copy: a NaN is stored as the one that rounds to a
// NaN of any type.
template <typename Out, typename Lane>
Tensor lanes_of_row_gradients(const Tensor& grad) {
  const Tensor given = grad.contiguous();
  Tensor lanes = at::empty_like(given, c10::CppTypeToScalarType<Lane>::value);
  const Out* const from = given.const_data_ptr<Out>();
  Lane* const to = lanes.mutable_data_ptr<Lane>();
  for (int64_t row = 0; row < given.numel(); ++row) {
    const Lane value = static_cast<Lane>(from[row]);
    to[row] = value == value ? value : kNaN<Lane>;
  }
  return lanes;
}

// The gradient of the logits from those of a result per row.
template <template <typename, typename> class Operator>
void map_row_gradients(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& grad_input) {
  const Rows rows = Rows::of(self, dim);
  const RowView logits = RowView::of(self, dim);
  with_element_type(self.scalar_type(), [&]<typename In>() {
    with_element_type(grad.scalar_type(), [&]<typename Out>() {
      using Lane = LaneOf<In, Out>;
      const RowScale<Lane> scales(temperature, scale, self, dim);
      const Tensor grads = lanes_of_row_gradients<Out, Lane>(grad);
      walk_logits<Operator>(
          rows,
          input_rows<In>(logits),
          output_rows<In>(grad_input, dim),
          scales,
          {grads.const_data_ptr<Lane>(), 1});
    });
  });
}

// softmax and log_softmax of tensors.
template <template <typename, typename> class Operator>
void map_logits(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& output) {
  const Rows rows = Rows::of(self, dim);
  const RowView logits = RowView::of(self, dim);
  with_element_type(self.scalar_type(), [&]<typename In>() {
    with_element_type(output.scalar_type(), [&]<typename Out>() {
      using Lane = LaneOf<In, Out>;
      const RowScale<Lane> scales(temperature, scale, self, dim);
      walk_logits<Operator>(rows, input_rows<In>(logits), output_rows<Out>(output, dim), scales);
    });
  });
}

}  // namespace softmax_ext::cpu
