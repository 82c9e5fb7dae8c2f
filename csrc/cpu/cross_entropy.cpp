#include "csrc/numerics/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <vector>

#include "csrc/cpu/walk_reduction.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

// Before anything is computed: every target is a class or ignore_index.
void check_targets(const Tensor& targets, const Rows& rows, int64_t ignore_index) {
  const int64_t* const target = targets.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows.count(); ++row) {
    if ((0 <= target[row] && target[row] < rows.length) || target[row] == ignore_index) continue;
    TORCH_CHECK_INDEX(
        false,
        "cross_entropy: expected targets in [0, ",
        rows.length,
        ") or ignore_index ",
        ignore_index,
        ", got ",
        target[row],
        " at position ",
        row,
        " of the target of shape ",
        targets.sizes());
  }
}

// Longer rows keep the terms of their sums for the gradient, shorter ones make them again.
constexpr int64_t kTermsFrom = 257;
// Rows that are reduced before their gradients are written, and so still in the cache.
constexpr int64_t kRowsAtOnce = 16;

// A number for each of several runs of rows of one length.
template <typename Lane>
struct RunValues {
  const Lane* data;
  int64_t rows;  // in a run

  Lane operator[](int64_t row) const { return data[row / rows]; }
};

// What the kernels of a cross-entropy share: the rows, their targets, and memory for what there is
// one of per row.
template <typename T>
class CrossEntropyCall {
 public:
  using Lane = LaneOf<T>;
  using Element = KernelElement<T>;

  CrossEntropyCall(
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
  void reduce(Lane* losses) {
    reduce_rows(rows_, in_, RowScale<Lane>(1), max_, log_sum_, [&](int64_t first, int64_t count) {
      for (int64_t row = first; row < first + count; ++row)
        lose(row, is_ignored(row) ? Lane(0) : target_logit(row), losses);
    });
  }

  // The gradients of the logits from what reduce() left.
  void write_gradient(const TensorRows<Element>& out, const RunValues<Lane>& grads) {
    begin_gradient();
    at::parallel_for(0, rows_.count(), 1024, [&](int64_t begin, int64_t end) {
      make_constants(begin, end - begin, grads);
    });
    map(out);
  }

  // Both. `out` may be the logits themselves.
  void reduce_with_gradient(
      const TensorRows<Element>& out, const RunValues<Lane>& grads, Lane* losses) {
    if (!in_.has_rows(rows_.length) || !out.has_rows(rows_.length) || rows_.length < kTermsFrom) {
      reduce(losses);
      write_gradient(out, grads);
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

// How many rows of each run are not ignored.
void count_rows(const Tensor& targets, int64_t ignore_index, const Tensor& count) {
  const int64_t* const classes = targets.const_data_ptr<int64_t>();
  double* const counts = count.mutable_data_ptr<double>();
  const int64_t runs = count.numel();
  const int64_t rows = runs == 0 ? 0 : targets.numel() / runs;
  for (int64_t run = 0; run < runs; ++run) {
    int64_t valid = 0;
    for (int64_t row = run * rows; row < (run + 1) * rows; ++row)
      valid += classes[row] != ignore_index;
    counts[run] = static_cast<double>(valid);
  }
}

// One thread, from the first row to the last: the order is fixed and the work is nothing beside
// that of the losses.
template <typename Lane>
void reduce_losses(
    const Lane* losses,
    int64_t rows,
    const Tensor& count,
    int64_t reduction,
    const Tensor& result) {
  const double* const counts = count.const_data_ptr<double>();
  Lane* const reduced = result.mutable_data_ptr<Lane>();
  for (int64_t run = 0; run < result.numel(); ++run) {
    double sum = 0;
    for (int64_t row = run * rows; row < (run + 1) * rows; ++row) sum += double(losses[row]);
    reduced[run] = static_cast<Lane>(reduction == Reduction::mean ? sum / counts[run] : sum);
  }
}

// The gradient of each row's loss, of one for all rows of a run.
template <typename Lane>
std::vector<Lane> gradients_of_runs(const Lane* grad, const Tensor& count, int64_t reduction) {
  const double* const counts = count.const_data_ptr<double>();
  std::vector<Lane> grads(count.numel());
  for (size_t run = 0; run < grads.size(); ++run) {
    const double of_run = grad == nullptr ? 1 : double(grad[run]);
    grads[run] = static_cast<Lane>(reduction == Reduction::mean ? of_run / counts[run] : of_run);
  }
  return grads;
}

// `gradient` is undefined, or where to write the gradient.
void compute(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t ignore_index,
    const std::tuple<Tensor, Tensor, Tensor>& results,
    const Tensor& gradient) {
  const auto& [result, count, statistics] = results;
  dim = wrapped_dim("cross_entropy", dim, self.dim());
  const Rows rows = Rows::of(self, dim);
  const Tensor targets = target.to(at::kLong).contiguous();
  check_targets(targets, rows, ignore_index);
  count_rows(targets, ignore_index, count);
  const int64_t runs = count.numel();
  const int64_t rows_of_run = runs == 0 ? 0 : rows.count() / runs;
  with_element_type(self.scalar_type(), [&]<typename T>() {
    using Lane = LaneOf<T>;
    Lane* const max = statistics.template mutable_data_ptr<Lane>();
    std::vector<Lane> losses_of_rows;
    Lane* losses;
    if (reduction == Reduction::none) {
      losses = result.template mutable_data_ptr<Lane>();
    } else {
      losses_of_rows.resize(rows.count());
      losses = losses_of_rows.data();
    }
    CrossEntropyCall<T> call(self, dim, targets, ignore_index, max, max + rows.count());
    if (gradient.defined()) {
      const auto grads = gradients_of_runs<Lane>(nullptr, count, reduction);
      call.reduce_with_gradient(
          output_rows<T>(gradient, dim), {grads.data(), std::max<int64_t>(rows_of_run, 1)}, losses);
    } else {
      call.reduce(losses);
    }
    if (reduction != Reduction::none) reduce_losses(losses, rows_of_run, count, reduction, result);
  });
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  const auto results = outputs::cross_entropy(self, target, dim, reduction, leading, ignore_index);
  compute(self, target, dim, reduction, ignore_index.expect_int(), results, Tensor());
  return results;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_with_gradient(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  const auto [result, count, statistics, gradient] =
      outputs::cross_entropy_with_gradient(self, target, dim, reduction, leading, ignore_index);
  compute(
      self,
      target,
      dim,
      reduction,
      ignore_index.expect_int(),
      {result, count, statistics},
      gradient);
  return {result, count, statistics, gradient};
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_in_place(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt symbolic_ignore_index) {
  const auto results =
      outputs::cross_entropy(self, target, dim, reduction, leading, symbolic_ignore_index);
  const int64_t ignore_index = symbolic_ignore_index.expect_int();
  const int64_t wrapped = wrapped_dim("cross_entropy", dim, self.dim());
  // What raises leaves the logits, and their version, as they were.
  check_targets(target.to(at::kLong).contiguous(), Rows::of(self, wrapped), ignore_index);
  outputs::check_writable("cross_entropy", self);
  if (self.numel() == 0 || row_offsets(self, wrapped)) {
    compute(self, target, dim, reduction, ignore_index, results, self);
  } else {  // of more dims than rows are found by
    const Tensor gradient = at::empty(self.sizes(), self.options());
    compute(self, target, dim, reduction, ignore_index, results, gradient);
    self.copy_(gradient);
  }
  return results;
}

Tensor cross_entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    int64_t dim,
    int64_t reduction,
    c10::SymInt symbolic_ignore_index) {
  const Tensor grad_input = outputs::cross_entropy_backward(
      grad, self, target, count, statistics, dim, reduction, symbolic_ignore_index);
  const int64_t ignore_index = symbolic_ignore_index.expect_int();
  dim = wrapped_dim("cross_entropy_backward", dim, self.dim());
  const Rows rows = Rows::of(self, dim);
  const Tensor targets = target.to(at::kLong).contiguous();
  check_targets(targets, rows, ignore_index);
  if (rows.count() == 0) return grad_input;
  const Tensor given = grad.contiguous();
  const Tensor counts = count.contiguous();
  Tensor of_rows = statistics.contiguous();
  with_element_type(self.scalar_type(), [&]<typename T>() {
    using Lane = LaneOf<T>;
    const Lane* const data = given.const_data_ptr<Lane>();
    Lane* const max = const_cast<Lane*>(of_rows.const_data_ptr<Lane>());  // read alone
    CrossEntropyCall<T> call(self, dim, targets, ignore_index, max, max + rows.count());
    if (reduction == Reduction::none) {
      call.write_gradient(output_rows<T>(grad_input, dim), {data, 1});
    } else {
      const auto grads = gradients_of_runs<Lane>(data, counts, reduction);
      call.write_gradient(
          output_rows<T>(grad_input, dim), {grads.data(), rows.count() / counts.numel()});
    }
  });
  return grad_input;
}

Tensor class_indices(
    const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt symbolic_ignore_index) {
  const Tensor indices = outputs::class_indices(self, target, dim, symbolic_ignore_index);
  const int64_t ignore_index = symbolic_ignore_index.expect_int();
  const Tensor targets = target.to(at::kLong).contiguous();
  check_targets(
      targets, Rows::of(self, wrapped_dim("cross_entropy", dim, self.dim())), ignore_index);
  const int64_t* const classes = targets.const_data_ptr<int64_t>();
  int64_t* const index = indices.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < targets.numel(); ++row)
    index[row] = classes[row] == ignore_index ? 0 : classes[row];
  return indices;
}

void scale_gradient(const Tensor& gradient, const Tensor& grad, int64_t dim) {
  outputs::scale_gradient(gradient, grad, dim);
  if (gradient.numel() == 0) return;
  dim = wrapped_dim("scale_gradient", dim, gradient.dim());
  const Tensor numbers = grad.contiguous();
  bool are_ones = true;
  bool are_finite = true;
  with_element_type(grad.scalar_type(), [&]<typename T>() {
    for (int64_t i = 0; i < numbers.numel(); ++i) {
      const T number = numbers.const_data_ptr<T>()[i];
      are_ones = are_ones && number == T(1);
      are_finite = are_finite && number - number == T(0);
    }
  });
  if (are_ones) return;
  Tensor rows = numbers;
  while (rows.dim() + 1 < gradient.dim()) rows = rows.unsqueeze(-1);
  // What is 0 stays it, as in ignored rows.
  const Tensor is_zero = are_finite ? Tensor() : gradient == 0;
  gradient.mul_(rows.unsqueeze(dim));
  if (!are_finite) gradient.masked_fill_(is_zero, 0);
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_cross_entropy", &softmax_ext::cpu::cross_entropy);
  m.impl("_cross_entropy_with_gradient", &softmax_ext::cpu::cross_entropy_with_gradient);
  m.impl("_cross_entropy_in_place", &softmax_ext::cpu::cross_entropy_in_place);
  m.impl("_cross_entropy_backward", &softmax_ext::cpu::cross_entropy_backward);
  m.impl("_class_indices", &softmax_ext::cpu::class_indices);
  m.impl("_scale_gradient", &softmax_ext::cpu::scale_gradient);
}
