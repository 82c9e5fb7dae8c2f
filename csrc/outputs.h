#pragma once
// One function per primitive: validates the inputs and allocates the outputs, contiguous, on the
// input's device, or validates the output that it was given. It is the primitive's Meta kernel, and
// its CPU and CUDA kernels call it first: a shape rule is written once. Sizes are read as SymInt
// only, so that they may be symbolic.

#include "csrc/signatures.h"

namespace softmax_ext {

// `dim` in [0, rank). Raises IndexError as torch does; a 0-d tensor has dims −1 and 0.
int64_t wrapped_dim(const char* op, int64_t dim, int64_t rank);

// The dtype codes of primitives: a c10::ScalarType as an int. (A ScalarType argument of a custom
// operator is misread by torch 2.11's AOTInductor.)
at::ScalarType dtype_of_code(const char* op, int64_t code);
inline int64_t code_of_dtype(at::ScalarType dtype) { return static_cast<int64_t>(dtype); }

// How memory of an output that was given lies to that of an input: the same element by element, or
// apart; or else.
enum class Overlap { none_or_same, unknown, partial };
Overlap overlap_of(const Tensor& out, const Tensor& input);
// Raises for what is further from none than `allowed`.
void check_overlap(const char* op, Overlap overlap, Overlap allowed);

namespace outputs {

// What softmax and log_softmax ask of their inputs, for a result of dtype `out`, and what their
// backwards do.
void check_normalized(
    const char* op,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    at::ScalarType out);
void check_normalized_backward(
    const char* op,
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    at::ScalarType out);

signature::Normalize softmax, log_softmax, logsumexp;
signature::NormalizeBackward softmax_backward, log_softmax_backward;
// These count the write as one (Tensor._version).
signature::NormalizeInto softmax_into, log_softmax_into;
signature::NormalizeBackwardInto softmax_backward_into, log_softmax_backward_into;
signature::LogSumExpBackward logsumexp_backward;
signature::Sample sample;
signature::Entropy entropy;
signature::EntropyBackward entropy_backward;
signature::MaskedSoftmax masked_softmax;

}  // namespace outputs
}  // namespace softmax_ext
