#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <vector>

#include "csrc/cpu/class_loss.h"
#include "csrc/cpu/weighted_loss.h"
#include "csrc/loss_outputs.h"
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

// What the mean of each run of rows divides by: the weights of the classes that are not ignored, or for
// probabilities how many rows there are. From the first row to the last, in double.
void count_rows(
    const Tensor& self, const Tensor& target, const LossArguments& loss, const Tensor& count) {
  double* const counts = count.mutable_data_ptr<double>();
  const int64_t runs = count.numel();
  if (runs == 0) return;
  if (!has_classes(target)) {
    const int64_t rows = Rows::of(self, loss.dim).count() / runs;
    std::fill_n(counts, runs, static_cast<double>(rows));
    return;
  }
  const int64_t* const classes = target.const_data_ptr<int64_t>();
  const int64_t ignore_index = loss.ignore_index.expect_int();
  const int64_t rows = target.numel() / runs;
  const auto count_with = [&](auto weight_of) {
    for (int64_t run = 0; run < runs; ++run) {
      double sum = 0;
      for (int64_t row = run * rows; row < (run + 1) * rows; ++row)
        if (classes[row] != ignore_index) sum += weight_of(classes[row]);
      counts[run] = sum;
    }
  };
  if (!loss.has_weight()) return count_with([](int64_t) { return 1; });
  const Tensor weights = loss.weight->to(at::kDouble).contiguous();
  count_with([data = weights.const_data_ptr<double>()](int64_t column) { return data[column]; });
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

// The gradient of each row's loss, of one for all rows of a run. 0 stays it, whatever it is divided by.
template <typename Lane>
std::vector<Lane> gradients_of_runs(const Lane* grad, const Tensor& count, int64_t reduction) {
  const double* const counts = count.const_data_ptr<double>();
  std::vector<Lane> grads(count.numel());
  for (size_t run = 0; run < grads.size(); ++run) {
    const double of_run = grad == nullptr ? 1 : double(grad[run]);
    const bool is_divided = reduction == Reduction::mean && of_run != 0;
    grads[run] = static_cast<Lane>(is_divided ? of_run / counts[run] : of_run);
  }
  return grads;
}

// A loss whose arguments are as kernels take them: checked, with `dim` in [0, rank), and class indices
// as contiguous int64.
struct CheckedLoss {
  Tensor self;
  Tensor target;
  LossArguments arguments;
  Rows rows;

  CheckedLoss(const Tensor& self, const Tensor& target, const LossArguments& loss)
      : self(self), target(target), arguments(loss) {
    arguments.dim = wrapped_dim("cross_entropy", loss.dim, self.dim());
    rows = Rows::of(self, arguments.dim);
    if (!has_classes(target)) return;
    this->target = target.to(at::kLong).contiguous();
    check_targets(this->target, rows, loss.ignore_index.expect_int());
  }

  // body(call) with what makes the losses, and log-sum-exps if it `has_logsumexp`.
  template <typename T, typename Body>
  void with_call(LaneOf<T>* statistics, bool has_logsumexp, Body body) const {
    LaneOf<T>* const log_sum = statistics + rows.count();
    if (is_plain(arguments, target) && !has_logsumexp) {
      const int64_t ignore_index = arguments.ignore_index.expect_int();
      body(ClassLossCall<T>(self, arguments.dim, target, ignore_index, statistics, log_sum));
    } else {
      body(WeightedLossCall<T>(self, arguments.dim, target, arguments, statistics, log_sum));
    }
  }
};

// `logsumexp` is undefined where it is not wanted; `gradient` is, or it is where to write it.
void compute(
    const CheckedLoss& loss,
    const Tensor& result,
    const Tensor& count,
    const Tensor& statistics,
    const Tensor& logsumexp,
    const Tensor& gradient) {
  const LossArguments& arguments = loss.arguments;
  const int64_t reduction = arguments.reduction;
  count_rows(loss.self, loss.target, arguments, count);
  const int64_t runs = count.numel();
  const int64_t rows_of_run = runs == 0 ? 0 : loss.rows.count() / runs;
  with_element_type(loss.self.scalar_type(), [&]<typename T>() {
    using Lane = LaneOf<T>;
    std::vector<Lane> losses_of_rows;
    Lane* losses;
    if (reduction == Reduction::none) {
      losses = result.template mutable_data_ptr<Lane>();
    } else {
      losses_of_rows.resize(loss.rows.count());
      losses = losses_of_rows.data();
    }
    Lane* const lse = logsumexp.defined() ? logsumexp.template mutable_data_ptr<Lane>() : nullptr;
    Lane* const max = statistics.template mutable_data_ptr<Lane>();
    loss.with_call<T>(max, lse != nullptr, [&](auto&& call) {
      if (!gradient.defined()) {
        call.reduce({losses, lse});
        return;
      }
      const auto grads = gradients_of_runs<Lane>(nullptr, count, reduction);
      call.reduce_with_gradient(
          {
              losses, lse
      },
          output_rows<T>(gradient, arguments.dim),
          {{grads.data(), std::max<int64_t>(rows_of_run, 1)}, nullptr});
    });
    if (reduction != Reduction::none) reduce_losses(losses, rows_of_run, count, reduction, result);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self, const Tensor& target, const LossArguments& arguments, bool has_logsumexp) {
  const auto results = outputs::cross_entropy(self, target, arguments, has_logsumexp);
  const auto& [result, count, statistics, logsumexp] = results;
  compute(
      CheckedLoss(self, target, arguments),
      result,
      count,
      statistics,
      has_logsumexp ? logsumexp : Tensor(),
      Tensor());
  return results;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_with_gradient(
    const Tensor& self, const Tensor& target, const LossArguments& arguments) {
  const auto results = outputs::cross_entropy_with_gradient(self, target, arguments);
  const auto& [result, count, statistics, gradient] = results;
  compute(CheckedLoss(self, target, arguments), result, count, statistics, Tensor(), gradient);
  return results;
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_in_place(
    const Tensor& self, const Tensor& target, const LossArguments& arguments) {
  const auto results = outputs::cross_entropy(self, target, arguments, /*has_logsumexp=*/false);
  const auto& [result, count, statistics, _] = results;
  // What raises leaves the logits, and their version, as they were.
  const CheckedLoss loss(self, target, arguments);
  outputs::check_writable("cross_entropy", self);
  if (self.numel() == 0 || row_offsets(self, loss.arguments.dim)) {
    compute(loss, result, count, statistics, Tensor(), self);
  } else {  // of more dims than rows are found by
    const Tensor gradient = at::empty(self.sizes(), self.options());
    compute(loss, result, count, statistics, Tensor(), gradient);
    self.copy_(gradient);
  }
  return {result, count, statistics};
}

Tensor cross_entropy_backward(
    const Tensor& grad,
    const optional<Tensor>& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    const LossArguments& arguments) {
  const Tensor grad_input = outputs::cross_entropy_backward(
      grad, grad_logsumexp, self, target, count, statistics, arguments);
  const CheckedLoss loss(self, target, arguments);
  if (loss.rows.count() == 0) return grad_input;
  const Tensor given = grad.contiguous();
  const Tensor counts = count.contiguous();
  const Tensor of_rows = statistics.contiguous();
  const bool has_logsumexp = grad_logsumexp && grad_logsumexp->defined();
  const Tensor of_logsumexp = has_logsumexp ? grad_logsumexp->contiguous() : Tensor();
  with_element_type(self.scalar_type(), [&]<typename T>() {
    using Lane = LaneOf<T>;
    const Lane* const data = given.const_data_ptr<Lane>();
    const Lane* const lse = has_logsumexp ? of_logsumexp.const_data_ptr<Lane>() : nullptr;
    Lane* const read_alone = const_cast<Lane*>(of_rows.const_data_ptr<Lane>());
    loss.with_call<T>(read_alone, has_logsumexp, [&](auto&& call) {
      const auto out = output_rows<T>(grad_input, loss.arguments.dim);
      if (arguments.reduction == Reduction::none) {
        call.write_gradient(
            out,
            {
                {data, 1},
                lse
        });
      } else {
        const auto grads = gradients_of_runs<Lane>(data, counts, arguments.reduction);
        call.write_gradient(
            out,
            {
                {grads.data(), loss.rows.count() / counts.numel()},
                lse
        });
      }
    });
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
  namespace cpu = softmax_ext::cpu;
  softmax_ext::register_losses<
      cpu::cross_entropy,
      cpu::cross_entropy_with_gradient,
      cpu::cross_entropy_in_place,
      cpu::cross_entropy_backward>(m);
  m.impl("_class_indices", &cpu::class_indices);
  m.impl("_scale_gradient", &cpu::scale_gradient);
}
