#pragma once
// Pieces of derivative formulas that several operators share. All are made of dispatcher operators,
// so they can be differentiated again. Tensors are in the dtype of the arithmetic (lane_dtype);
// every reduction keeps the dim.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace softmax_ext::autograd {

using at::Tensor;
using std::optional;

// An undefined tensor, as a saved value that was absent comes back, as no tensor.
inline optional<Tensor> if_defined(const Tensor& tensor) {
  return tensor.defined() ? optional<Tensor>(tensor) : std::nullopt;
}

// The primal and the tangent of a dual tensor, at the current forward level; no tangent where there
// is none.
Tensor primal(const Tensor& tensor);
optional<Tensor> primal(const optional<Tensor>& tensor);
optional<Tensor> tangent(const Tensor& tensor);
optional<Tensor> tangent(const optional<Tensor>& tensor);

// value / T, with the gradients' convention: 0 where T is 0 or infinite.
Tensor divided_by_temperature(
    const Tensor& value, const optional<Tensor>& temperature, double scale);

// Σ over `dim`, kept with size 1.
Tensor row_sum(const Tensor& value, int64_t dim);

// x with −inf replaced by 0: a probability of 0 meets it in products, and 0 · (−inf) counts as 0.
Tensor finite_logits(const Tensor& logits);

// x − log-sum-exp of its row, −inf replaced by 0: logits near 0, for sums Σ g·x whose weights g add
// up to 0. A difference beyond the range of the dtype stays finite, as a weight of 0 may meet it.
Tensor centred_logits(const Tensor& logits, int64_t dim);

// The gradient of T through logits/T, −Σ g·x / T, summed to T's shape; g is the gradient of the
// logits.
Tensor temperature_gradient(
    const Tensor& grad_logits, const Tensor& logits, const Tensor& temperature);

// The tangent of logits/T through T alone, in units of the logits: −x·dT/T.
Tensor temperature_tangent(
    const Tensor& logits, const Tensor& temperature, const Tensor& temperature_tangent);

// a + b, either of which may be absent (not both).
Tensor sum_of(const optional<Tensor>& a, const optional<Tensor>& b);

}  // namespace softmax_ext::autograd
