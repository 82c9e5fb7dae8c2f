#pragma once
// The derivatives of a loss (csrc/losses.h) where the kernels do not make them: by its target, weights and
// temperature, in forward mode, and of higher order. Made of dispatcher operators, which can be
// differentiated again; some take several times the memory of the logits.

#include <ATen/core/Tensor.h>

#include "csrc/losses.h"

namespace softmax_ext::autograd {

// A loss with what its backward takes; a tensor that is absent is undefined. `dim` is in [0, rank).
struct Loss {
  Tensor self;
  Tensor target;
  Tensor count;
  Tensor statistics;
  int64_t dim;
  int64_t reduction;
  c10::SymInt ignore_index;
  Tensor weight;
  Tensor temperature;
  double scale;
  double label_smoothing;
  double softcap;
  double z_loss;

  LossArguments arguments() const;
};

// Upstream gradients of each row, of the logits' rank with size 1 in dim: of its loss, and of its
// log-sum-exp (undefined: 0).
struct RowGradients {
  Tensor loss;
  Tensor logsumexp;
};

// From the gradient of the result, of the losses' own reduction, and from that of each log-sum-exp.
RowGradients row_gradients(const Loss& loss, const Tensor& grad, const Tensor& grad_logsumexp);

// What a number of each row, with dim, adds up to in the result.
Tensor reduced_rows(const Loss& loss, const Tensor& rows);

// Everything is in the dtype of the arithmetic and 0 in ignored rows; of the logits' shape, but for what is
// of each row.
class LossFormulas {
 public:
  explicit LossFormulas(const Loss& loss);

  // The gradients of the logits, of the probabilities that are the target, of the weights (to be summed
  // over the rows), and of each row's temperature.
  Tensor of_logits(const RowGradients& grads) const;
  Tensor of_target(const RowGradients& grads) const;
  Tensor of_weights(const RowGradients& grads) const;
  Tensor of_temperature(const RowGradients& grads) const;

  // The same of Σ_j v_j · of_logits_j; and what that is by the upstream gradients, for each row.
  struct Second {
    Tensor logits;
    Tensor target;
    Tensor weights;
    Tensor temperature;
    RowGradients upstream;
  };
  Second of_direction(const RowGradients& grads, const Tensor& v) const;

  // value with 0 in ignored rows, whatever it holds there.
  Tensor unless_ignored(const Tensor& value) const;

 private:
  const Loss& loss_;
  at::ScalarType lane_;
  Tensor is_ignored_;  // with dim; undefined for probabilities
  Tensor capped_;
  Tensor probs_;
  Tensor unweighted_;  // q without w
  Tensor weights_;     // w along dim, or undefined
  Tensor q_;

  Tensor logp() const;       // 0 where it is −inf and the class weighs nothing
  Tensor logsumexp() const;  // with dim
  Tensor by_temperature(const Tensor& value) const;  // value / T
  Tensor through_softcap(const Tensor& value) const;
  Tensor with_weights(const Tensor& value) const;
  // Of each row's log-sum-exp, by the loss and by itself.
  Tensor of_logsumexp(const RowGradients& grads) const;
  // a · p − g · q: by the logits after softcap and temperature.
  Tensor of_scaled_logits(const RowGradients& grads) const;
};

}  // namespace softmax_ext::autograd
