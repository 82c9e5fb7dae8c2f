#pragma once
// The arguments of a public loss, checked and brought to the dtypes that the primitives take, and the loss
// that they make.

#include <utility>

#include "csrc/losses.h"
#include "csrc/public_operators.h"

namespace softmax_ext::public_operator {

// The arguments of the primitive.
struct Loss {
  Tensor self;
  Tensor target;
  LossArguments arguments;
};

// `temperature`, or without it 1/T in `scale`. Raises what cross_entropy is documented to.
Loss resolved(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& temperature,
    double scale,
    const LossOptions& options);

// 1/T of a number.
double scale_of(double temperature);

// The loss, and the log-sum-exp of each row if it is wanted.
std::pair<Tensor, Tensor> cross_entropy_of(
    const Loss& loss, const LossOptions& options, bool has_logsumexp);

}  // namespace softmax_ext::public_operator
