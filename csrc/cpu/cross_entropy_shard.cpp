#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "csrc/cpu/weighted_loss.h"
#include "csrc/loss_outputs.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

// Targets as places among the logits.
constexpr int64_t kElsewhere = -1;
constexpr int64_t kIgnored = -2;

Tensor local_targets(const Tensor& target, int64_t length, const LossArguments& loss) {
  const int64_t first = loss.shard->first.expect_int();
  const int64_t classes = loss.shard->classes.expect_int();
  const int64_t ignore_index = loss.ignore_index.expect_int();
  const Tensor given = target.to(at::kLong).contiguous();
  Tensor local = at::empty(given.sizes(), given.options());
  const int64_t* const from = given.const_data_ptr<int64_t>();
  int64_t* const to = local.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < given.numel(); ++row) {
    const int64_t t = from[row];
    const bool is_ignored = t == ignore_index;
    TORCH_CHECK_INDEX(
        is_ignored || (0 <= t && t < classes),
        "cross_entropy: expected targets in [0, ",
        classes,
        ") or ignore_index ",
        ignore_index,
        ", got ",
        t,
        " at position ",
        row,
        " of the target of shape ",
        target.sizes());
    const bool is_here = first <= t && t < first + length;
    to[row] = is_ignored ? kIgnored : is_here ? t - first : kElsewhere;
  }
  return local;
}

// The loss as its kernels take it.
struct LocalLoss {
  Tensor target;
  LossArguments arguments;
  Rows rows;

  LocalLoss(const Tensor& self, const Tensor& given, const LossArguments& loss)
      : target(given), arguments(loss) {
    arguments.dim = wrapped_dim("cross_entropy_shard", loss.dim, self.dim());
    rows = Rows::of(self, arguments.dim);
    if (!has_classes(given)) return;
    target = local_targets(given, rows.length, loss);
    arguments.ignore_index = kIgnored;
  }
};

Tensor cross_entropy_shard(
    const Tensor& self, const Tensor& target, const LossArguments& arguments) {
  const Tensor parts = outputs::cross_entropy_shard(self, target, arguments);
  const LocalLoss loss(self, target, arguments);
  if (self.numel() == 0) return parts;
  const int64_t rows = loss.rows.count();
  with_element_type(self.scalar_type(), [&]<typename T>() {
    using Lane = LaneOf<T>;
    Lane* const max = parts.mutable_data_ptr<Lane>();
    WeightedLossCall<T>(self, loss.arguments.dim, loss.target, loss.arguments, max, max + rows)
        .reduce({max + 2 * rows, nullptr, max + 3 * rows});
  });
  return parts;
}

Tensor cross_entropy_shard_backward(
    const Tensor& grad,
    const Tensor& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& statistics,
    const LossArguments& arguments) {
  const Tensor grad_input = outputs::cross_entropy_shard_backward(
      grad, grad_logsumexp, self, target, statistics, arguments);
  const LocalLoss loss(self, target, arguments);
  const Tensor of_losses = grad.contiguous();
  const Tensor of_logsumexps = grad_logsumexp.contiguous();
  const Tensor of_rows = statistics.contiguous();
  with_element_type(self.scalar_type(), [&]<typename T>() {
    using Lane = LaneOf<T>;
    Lane* const max = const_cast<Lane*>(of_rows.const_data_ptr<Lane>());  // read alone
    WeightedLossCall<T>(
        self, loss.arguments.dim, loss.target, loss.arguments, max, max + loss.rows.count())
        .write_gradient(
            output_rows<T>(grad_input, loss.arguments.dim),
            {
                {of_losses.const_data_ptr<Lane>(), 1},
                of_logsumexps.const_data_ptr<Lane>()
    });
  });
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  namespace cpu = softmax_ext::cpu;
  softmax_ext::register_loss_shards<cpu::cross_entropy_shard, cpu::cross_entropy_shard_backward>(m);
}
