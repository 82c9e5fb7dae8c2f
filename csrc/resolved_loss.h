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

// Whether a derivative by it will be wanted; and whether one by the target, the weights or the temperature.
bool is_differentiated(const optional<Tensor>& tensor);
bool other_gradients(const Loss& loss);

// At a temperature of 0 there is no log-sum-exp.
void check_logsumexp(const Loss& loss, bool has_logsumexp);

// The mean of the rows' losses, where the weights that it divides by are differentiated.
Tensor mean_by_weights(const Loss& loss, const Tensor& rows);

// The loss, and the log-sum-exp of each row if it is wanted.
std::pair<Tensor, Tensor> cross_entropy_of(
    const Loss& loss, const LossOptions& options, bool has_logsumexp);

}  // namespace softmax_ext::public_operator
