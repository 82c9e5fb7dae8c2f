#pragma once
// The signatures of the primitives. Each is shared by the dispatcher call (primitives.h), the
// function that checks and allocates (outputs.h) and the kernels. What the arguments mean:
// library.cpp.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace softmax_ext {

using at::Tensor;
using std::optional;

namespace signature {

// _softmax, _log_softmax, _logsumexp
using Normalize = Tensor(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    optional<int64_t> dtype);

// _softmax_backward, _log_softmax_backward
using NormalizeBackward = Tensor(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    int64_t dtype);

// _softmax_into, _log_softmax_into: the result is written to `out`, whose dtype says theirs.
using NormalizeInto = void(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& out);

// _softmax_backward_into, _log_softmax_backward_into
using NormalizeBackwardInto = void(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    const Tensor& out);

using LogSumExpBackward = Tensor(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale);

// (loss, max, log_sum), one of each per row.
using CrossEntropy = std::tuple<Tensor, Tensor, Tensor>(
    const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt ignore_index);

using CrossEntropyBackward = Tensor(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& max,
    const Tensor& log_sum,
    int64_t dim,
    c10::SymInt ignore_index);

// (result, count): the sum or mean of all but the first `leading` dims, and how many rows are in
// it.
using ReduceLosses = std::tuple<Tensor, Tensor>(
    const Tensor& losses,
    const Tensor& target,
    int64_t leading,
    bool mean,
    c10::SymInt ignore_index);

}  // namespace signature
}  // namespace softmax_ext
