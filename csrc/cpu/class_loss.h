#pragma once
// The cross-entropy loss of class indices without options over the rows of tensors: −log p of a row's
// class. Terms of the sums are kept for the gradient where it is made in the same call.

#include <vector>

#include "csrc/cpu/loss_rows.h"
#include "csrc/cpu/walk_reduction.h"
#include "csrc/numerics/cross_entropy.h"

namespace softmax_ext::cpu {

// Longer rows keep the terms of their sums for the gradient, shorter ones make them again.
constexpr int64_t kTermsFrom = 257;
// Rows that are reduced before their gradients are written, and so still in the cache.
constexpr int64_t kRowsAtOnce = 16;

template <typename T>
class ClassLossCall {
 public:
  using Lane = LaneOf<T>;
  using Element = KernelElement<T>;

  ClassLossCall(
      const Tensor& self,
      int64_t dim,
      const Tensor& targets,
      int64_t ignore_index,
      Lane* max,
      Lane* log_sum)
      : rows_(Rows::of(self, dim)),
        logits_(RowView::of(self, dim)),
        in_(input_rows<T>(logits_)),
        classes_(targets.const_data_ptr<int64_t>()),
        ignore_index_(ignore_index),
        max_(max),
        log_sum_(log_sum) {}

  // The losses, and what backward needs of each row.
  void reduce(const LossResults<Lane>& results) {
    Lane* const losses = results.losses;
    reduce_rows(rows_, in_, RowScale<Lane>(1), max_, log_sum_, [&](int64_t first, int64_t count) {
      for (int64_t row = first; row < first + count; ++row)
        lose(row, is_ignored(row) ? Lane(0) : target_logit(row), losses);
    });
  }

  // The gradients of the logits from what reduce() left.
  void write_gradient(const TensorRows<Element>& out, const LossGradients<Lane>& upstream) {
    const RunValues<Lane>& grads = upstream.losses;
    begin_gradient();
    at::parallel_for(0, rows_.count(), 1024, [&](int64_t begin, int64_t end) {
      make_constants(begin, end - begin, grads);
    });
    map(out);
  }

  // Both. `out` may be the logits themselves.
  void reduce_with_gradient(
      const LossResults<Lane>& results,
      const TensorRows<Element>& out,
      const LossGradients<Lane>& upstream) {
    Lane* const losses = results.losses;
    const RunValues<Lane>& grads = upstream.losses;
    if (!in_.has_rows(rows_.length) || !out.has_rows(rows_.length) || rows_.length < kTermsFrom) {
      reduce(results);
      write_gradient(out, upstream);
      return;
    }
    begin_gradient();
    if (rows_.length > simd::kChunk)
      reduce_long_rows_with_gradient(out, grads, losses);
    else
      for_each_range(rows_, 1, [&](int64_t begin, int64_t end) {
        for_each_run(
            begin,
            end,
            [&](int64_t first, int64_t count) {
              for (int64_t row = first; row < first + count; row += kRowsAtOnce)
                reduce_rows_with_gradient(
                    row, std::min(kRowsAtOnce, first + count - row), out, grads, losses);
            },
            in_,
            out);
      });
  }

 private:
  Rows rows_;
  RowView logits_;
  TensorRows<const Element> in_;
  const int64_t* classes_;
  int64_t ignore_index_;
  Lane* max_;
  Lane* log_sum_;
  // Of each row: what its terms are multiplied by, and the gradient of its target's logit.
  std::vector<Lane> factor_;
  std::vector<Lane> true_class_;

  static const auto& table() { return of_type<Element>(*kernels().cross_entropy); }
  static const auto& softmax() { return of_types<Element, Element>(*kernels().softmax); }

  bool is_ignored(int64_t row) const { return classes_[row] == ignore_index_; }
  Lane target_logit(int64_t row) const {
    return static_cast<Lane>(
        reinterpret_cast<const T*>(in_[row])[classes_[row] * in_.length_stride]);
  }

  void lose(int64_t row, Lane of_target, Lane* losses) {
    CrossEntropyRow<Lane> result{Lane(0), Lane(0), Lane(0)};
    if (!is_ignored(row)) result = cross_entropy_row(max_[row], log_sum_[row], of_target);
    losses[row] = result.loss;
    max_[row] = result.max;
    log_sum_[row] = result.log_sum;
  }

  // Reads the logits of the targets, before any may be overwritten.
  void begin_gradient() {
    factor_.resize(rows_.count());
    true_class_.resize(rows_.count());
    at::parallel_for(0, rows_.count(), 1024, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        true_class_[row] = is_ignored(row) ? Lane(0) : target_logit(row);
    });
  }
  void make_constants(int64_t first, int64_t count, const RunValues<Lane>& grads) {
    for (int64_t row = first; row < first + count; ++row) factor_[row] = grads[row];
    table().constants(
        count,
        max_ + first,
        log_sum_ + first,
        &factor_[first],
        &factor_[first],
        &true_class_[first]);
  }
  // The true class, and rows that are ignored: 0, whatever their logits and their upstream gradient
  // are, NaN included.
  void put_others(const TensorRows<Element>& out, int64_t row) const {
    auto* const dx = reinterpret_cast<T*>(out[row]);
    if (is_ignored(row))
      for (int64_t j = 0; j < rows_.length; ++j) dx[j * out.length_stride] = T(0);
    else
      dx[classes_[row] * out.length_stride] = static_cast<T>(true_class_[row]);
  }

  // Where terms are kept: in the output if they have its type.
  static Lane* terms_at(Element* out, Lane* scratch) {
    if constexpr (std::is_same_v<Element, Lane>)
      return out;
    else
      return scratch;
  }

  void reduce_rows_with_gradient(
      int64_t first,
      int64_t count,
      const TensorRows<Element>& out,
      const RunValues<Lane>& grads,
      Lane* losses) {
    constexpr bool kTermsInOutput = std::is_same_v<Element, Lane>;
    const Lane one = 1;
    Lane* const kept = kTermsInOutput ? nullptr : scratch<Lane>(kRowsAtOnce * rows_.length);
    const int64_t stride = kTermsInOutput ? out.offsets.strides[0] : rows_.length;
    Lane* const terms = terms_at(out[first], kept);
    table().reduce(
        {
            in_[first],
            in_.offsets.strides[0],
            count,
            rows_.length,
            {&one, 0},
            max_ + first,
            log_sum_ + first
    },
        terms,
        stride);
    for (int64_t row = first; row < first + count; ++row) lose(row, true_class_[row], losses);
    make_constants(first, count, grads);
    for (int64_t r = 0; r < count; ++r) {
      softmax().finish(terms + r * stride, out[first + r], rows_.length, factor_[first + r]);
      put_others(out, first + r);
    }
  }

  void reduce_long_rows_with_gradient(
      const TensorRows<Element>& out, const RunValues<Lane>& grads, Lane* losses) {
    using Summary = SoftmaxSummary<Lane, double>;
    const int64_t chunks = chunks_of(rows_.length);
    const bool are_shared = rows_.count() < at::get_num_threads();
    const int64_t kept = are_shared ? rows_.count() : 1;
    struct Memory {
      Summary* summaries;
      Lane* terms;
    };
    const auto memory_of_thread = [&] {
      const bool has_terms = !std::is_same_v<Element, Lane>;
      return Memory{
          scratch<Summary>(kept * chunks),
          has_terms ? scratch<Lane>(kept * rows_.length) : nullptr};
    };
    const Memory shared = memory_of_thread();
    const auto memory = [&](int64_t row) {
      Memory in_use = are_shared ? shared : memory_of_thread();
      if (are_shared) {
        in_use.summaries += row * chunks;
        if (in_use.terms != nullptr) in_use.terms += row * rows_.length;
      }
      return in_use;
    };
    for_each_long_row(
        rows_,
        [&](int64_t row, int64_t chunk, int64_t offset, int64_t count) {
          const Memory in_use = memory(row);
          in_use.summaries[chunk] =
              is_ignored(row)
                  ? Summary::empty()
                  : table().summarize(
                        in_[row] + offset, terms_at(out[row], in_use.terms) + offset, count);
        },
        [&](int64_t row) {
          const Summary* const summaries = memory(row).summaries;
          Summary summary = summaries[0];
          for (int64_t chunk = 1; chunk < chunks; ++chunk)
            summary = merge(summary, summaries[chunk], Lane(1));
          max_[row] = summary.max;
          log_sum_[row] = static_cast<Lane>(summary.log_sum());
          lose(row, true_class_[row], losses);
          make_constants(row, 1, grads);
        },
        [&](int64_t row, int64_t chunk, int64_t offset, int64_t count) {
          if (is_ignored(row)) {
            std::fill_n(reinterpret_cast<T*>(out[row]) + offset, count, T(0));
            return;
          }
          const Memory in_use = memory(row);
          // Terms were measured from the maximum of their chunk.
          const Lane rescale = exponential(in_use.summaries[chunk].max - max_[row]);
          softmax().finish(
              terms_at(out[row], in_use.terms) + offset,
              out[row] + offset,
              count,
              factor_[row] * rescale);
          if (offset <= classes_[row] && classes_[row] < offset + count) put_others(out, row);
        });
  }

  // exp(x − max) · factor, and what put_others() puts.
  void map(const TensorRows<Element>& out) {
    const bool are_rows = in_.has_rows(rows_.length) && out.has_rows(rows_.length);
    const auto gradients = [&](const auto* x,
                               int64_t x_stride,
                               auto* dx,
                               int64_t dx_stride,
                               int64_t first,
                               int64_t count,
                               int64_t length) {
      using Operand = std::remove_pointer_t<decltype(dx)>;
      return simd::CrossEntropyGradients<Operand>{
          x, x_stride, dx, dx_stride, count, length, {   max_ + first, 1},
                {&factor_[first], 1}
      };
    };
    if (are_rows && rows_.length > simd::kChunk) {
      for_each_long_row(
          rows_,
          [&](int64_t row, int64_t, int64_t offset, int64_t count) {
            if (!is_ignored(row))
              table().rows(gradients(in_[row] + offset, 0, out[row] + offset, 0, row, 1, count));
          },
          [&](int64_t row) { put_others(out, row); },
          [](auto...) {});
    } else if (are_rows || (in_.has_columns() && out.has_columns())) {
      for_each_range(rows_, are_rows ? 1 : simd::kColumns, [&](int64_t begin, int64_t end) {
        for_each_run(
            begin,
            end,
            [&](int64_t first, int64_t count) {
              (are_rows ? table().rows : table().columns)(gradients(
                  in_[first],
                  are_rows ? in_.offsets.strides[0] : in_.length_stride,
                  out[first],
                  are_rows ? out.offsets.strides[0] : out.length_stride,
                  first,
                  count,
                  rows_.length));
              for (int64_t row = first; row < first + count; ++row) put_others(out, row);
            },
            in_,
            out);
      });
    } else {
      for_each_range(rows_, 1, [&](int64_t begin, int64_t end) {
        Lane* const staged = scratch<Lane, 1>(rows_.length);
        for (int64_t row = begin; row < end; ++row) {
          gather(in_[row], in_.length_stride, rows_.length, staged);
          of_type<Lane>(*kernels().cross_entropy)
              .rows(
                  gradients(static_cast<const Lane*>(staged), 0, staged, 0, row, 1, rows_.length));
          scatter(staged, rows_.length, out[row], out.length_stride);
          put_others(out, row);
        }
      });
    }
  }
};

}  // namespace softmax_ext::cpu
