#include <ATen/TensorOperators.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/where.h>

#include <algorithm>

#include "csrc/loss_outputs.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"

namespace softmax_ext::cuda {

WeightedLoss weighted_loss(RowsCall& call, const Tensor& target, const LossArguments& loss) {
  WeightedLoss weighted{
      .classes = {nullptr,  0},
      .probabilities = { nullptr, {},      0},
      .weights = nullptr,
      .weights_sum = nullptr,
      .label_smoothing = loss.label_smoothing,
      .all_classes = loss.classes(call.length()).expect_int(),
      .softcap = loss.softcap,
      .z_loss = loss.z_loss,
      .is_part = loss.shard.has_value()
  };
  call.set_temperature(loss.temperature, loss.scale);
  if (has_classes(target))
    weighted.classes = call.targets(target, loss.ignore_index.expect_int());
  else
    weighted.probabilities = call.rows_of(target);
  if (loss.has_weight()) {
    const Tensor weight = loss.weight->contiguous();
    weighted.weights = call.keep(weight).const_data_ptr();
    weighted.weights_sum =
        call.keep(weight.sum(at::kDouble).to(weight.scalar_type())).const_data_ptr();
  }
  return weighted;
}

namespace {

// Targets as places among the logits: −1 where they are in another shard.
constexpr int64_t kIgnored = -2;

Tensor local_targets(const Tensor& target, int64_t length, const LossArguments& loss) {
  const int64_t first = loss.shard->first.expect_int();
  const Tensor given = target.to(at::kLong);
  const Tensor ignored = given.eq(loss.ignore_index.expect_int());
  at::_assert_async(
      given.ge(0).logical_and(given.lt(loss.shard->classes.expect_int())).logical_or(ignored).all(),
      "cross_entropy: expected targets in [0, classes) or ignore_index");
  const Tensor is_here = given.ge(first).logical_and(given.lt(first + length));
  return (given - first).masked_fill(is_here.logical_not(), -1).masked_fill(ignored, kIgnored);
}

// The loss as its kernels take it.
struct LocalLoss {
  Tensor target;
  LossArguments arguments;

  LocalLoss(const Tensor& self, const Tensor& given, const LossArguments& loss)
      : target(given), arguments(loss) {
    arguments.dim = wrapped_dim("cross_entropy_shard", loss.dim, self.dim());
    if (!has_classes(given)) return;
    target = local_targets(given, self.size(arguments.dim), loss);
    arguments.ignore_index = kIgnored;
  }
};

CrossEntropyRows rows_of(void* data, std::size_t bytes) {
  auto* const max = static_cast<char*>(data);
  return {max + 2 * bytes, max, max + bytes};
}

Tensor cross_entropy_shard(
    const Tensor& self, const Tensor& target, const LossArguments& arguments) {
  const Tensor parts = outputs::cross_entropy_shard(self, target, arguments);
  if (self.numel() == 0) return parts;
  const LocalLoss loss(self, target, arguments);
  RowsCall call(self, loss.arguments.dim, self.scalar_type(), self.scalar_type());
  const std::size_t bytes = parts.nbytes() / 4;
  const CrossEntropyRows rows = rows_of(parts.mutable_data_ptr(), bytes);
  const WeightedLoss weighted = weighted_loss(call, loss.target, loss.arguments);
  call.finish(launch_weighted_loss(
      call.problem(),
      call.logits(self),
      weighted,
      {
          rows, nullptr, static_cast<char*>(rows.losses) + bytes
  },
      {{nullptr, 0}, {nullptr, 0}},
      nullptr));
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
  if (grad_input.numel() == 0) return grad_input;
  const LocalLoss loss(self, target, arguments);
  RowsCall call(self, loss.arguments.dim, self.scalar_type(), self.scalar_type());
  const Tensor of_rows = statistics.contiguous();
  auto* const maxima =
      static_cast<char*>(const_cast<void*>(of_rows.const_data_ptr()));  // read alone
  const WeightedLoss weighted = weighted_loss(call, loss.target, loss.arguments);
  call.finish(launch_weighted_loss_backward(
      call.problem(),
      call.logits(self),
      weighted,
      {nullptr, maxima, maxima + of_rows.nbytes() / 2},
      {call.row_numbers(grad), call.row_numbers(grad_logsumexp)},
      call.logits_result(grad_input)));
  return grad_input;
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) {
  namespace cuda = softmax_ext::cuda;
  softmax_ext::register_loss_shards<cuda::cross_entropy_shard, cuda::cross_entropy_shard_backward>(
      m);
}
