#include "csrc/outputs.h"

#include <ATen/MemoryOverlap.h>

#include "csrc/element_type.h"
#include "csrc/output_checks.h"

namespace softmax_ext {

int64_t wrapped_dim(const char* op, int64_t dim, int64_t rank) {
  const int64_t dims = std::max<int64_t>(rank, 1);
  TORCH_CHECK_INDEX(
      -dims <= dim && dim < dims,
      op,
      ": expected dim in [",
      -dims,
      ", ",
      dims - 1,
      "] for a ",
      rank,
      "-d tensor, got ",
      dim);
  return dim < 0 ? dim + dims : dim;
}

at::ScalarType dtype_of_code(const char* op, int64_t code) {
  const bool is_known = 0 <= code && code < static_cast<int64_t>(at::ScalarType::NumOptions);
  TORCH_CHECK_NOT_IMPLEMENTED(is_known, op, ": expected the code of a dtype, got ", code);
  const auto dtype = static_cast<at::ScalarType>(code);
  TORCH_CHECK_NOT_IMPLEMENTED(
      is_element_type(dtype),
      op,
      ": expected an output dtype of float64, float32, bfloat16 or float16, got ",
      dtype);
  return dtype;
}

Overlap overlap_of(const Tensor& out, const Tensor& input) {
  if (!out.has_storage() || !input.has_storage() || out.is_meta() || out.is_same(input))
    return Overlap::none_or_same;
  const bool is_alias = out.storage().is_alias_of(input.storage());
  const auto is_symbolic = [](const Tensor& tensor) {
    return tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
  };
  if (is_symbolic(out) || is_symbolic(input))
    return is_alias ? Overlap::unknown : Overlap::none_or_same;
  switch (at::get_overlap_status(out, input)) {
    case at::MemOverlapStatus::Full:
    case at::MemOverlapStatus::No:
      return Overlap::none_or_same;
    case at::MemOverlapStatus::Partial:
      // The same bytes in another order are no part.
      return out.const_data_ptr() == input.const_data_ptr() && out.nbytes() == input.nbytes()
                 ? Overlap::unknown
                 : Overlap::partial;
    default:
      return is_alias ? Overlap::unknown : Overlap::none_or_same;
  }
}

void check_overlap(const char* op, Overlap overlap, Overlap allowed) {
  TORCH_CHECK(
      overlap <= allowed,
      op,
      ": expected out to be an input itself or to share no memory with it, got one that overlaps "
      "an "
      "input in part; clone one of them");
}

namespace outputs {
void check_normalized(
    const char* op,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    at::ScalarType out) {
  dim = wrapped_dim(op, dim, self.dim());
  check_element_type(op, "input", self);
  check_temperature(op, temperature, self, dim, lane_dtype(self.scalar_type(), out));
}

void check_normalized_backward(
    const char* op,
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    at::ScalarType out) {
  dim = wrapped_dim(op, dim, output.dim());
  check_element_type(op, "output", output);
  check_same_sizes(op, "grad", grad, output);
  check_same_device(op, "grad", grad, output);
  TORCH_CHECK(
      grad.scalar_type() == output.scalar_type(),
      op,
      ": expected grad of the output's dtype ",
      output.scalar_type(),
      ", got ",
      grad.scalar_type());
  check_temperature(op, temperature, output, dim, lane_dtype(output.scalar_type(), out));
}

namespace {

Tensor normalized(
    const char* op,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    optional<int64_t> dtype) {
  const auto out = output_dtype(op, self, dtype);
  check_normalized(op, self, temperature, dim, out);
  return empty_like_sizes(self, out);
}

Tensor normalized_backward(
    const char* op,
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    int64_t dtype) {
  const auto out = dtype_of_code(op, dtype);
  check_normalized_backward(op, grad, output, temperature, dim, out);
  return empty_like_sizes(output, out);
}

// An output that was given, for inputs that were checked already.
void check_out(
    const char* op,
    const Tensor& out,
    const Tensor& like,
    const optional<Tensor>& temperature,
    std::initializer_list<const Tensor*> inputs) {
  check_same_device(op, "out", out, like);
  check_same_sizes(op, "out", out, like);
  TORCH_CHECK(
      out.is_contiguous(), op, ": expected a contiguous out, got strides ", out.sym_strides());
  for (const Tensor* const input : inputs)
    check_overlap(op, overlap_of(out, *input), Overlap::none_or_same);
  if (temperature && temperature->defined())
    check_overlap(op, overlap_of(out, *temperature), Overlap::none_or_same);
  if (!out.is_inference()) out.unsafeGetTensorImpl()->bump_version();
}

void normalized_into(
    const char* op,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    const Tensor& out) {
  check_element_type(op, "out", out);
  check_normalized(op, self, temperature, dim, out.scalar_type());
  check_out(op, out, self, temperature, {&self});
}

void normalized_backward_into(
    const char* op,
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    const Tensor& out) {
  check_element_type(op, "out", out);
  check_normalized_backward(op, grad, output, temperature, dim, out.scalar_type());
  check_out(op, out, output, temperature, {&grad, &output});
}

}  // namespace

Tensor softmax(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    optional<int64_t> dtype) {
  return normalized("softmax", self, temperature, dim, dtype);
}

Tensor log_softmax(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    optional<int64_t> dtype) {
  return normalized("log_softmax", self, temperature, dim, dtype);
}

Tensor softmax_backward(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    int64_t dtype) {
  return normalized_backward("softmax_backward", grad, output, temperature, dim, dtype);
}

Tensor log_softmax_backward(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    int64_t dtype) {
  return normalized_backward("log_softmax_backward", grad, output, temperature, dim, dtype);
}

void softmax_into(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    const Tensor& out) {
  normalized_into("softmax", self, temperature, dim, out);
}

void log_softmax_into(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    const Tensor& out) {
  normalized_into("log_softmax", self, temperature, dim, out);
}

void softmax_backward_into(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    const Tensor& out) {
  normalized_backward_into("softmax_backward", grad, output, temperature, dim, out);
}

void log_softmax_backward_into(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    const Tensor& out) {
  normalized_backward_into("log_softmax_backward", grad, output, temperature, dim, out);
}

Tensor logsumexp(
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    optional<int64_t> dtype) {
  dim = wrapped_dim("logsumexp", dim, self.dim());
  check_element_type("logsumexp", "input", self);
  const auto out = output_dtype("logsumexp", self, dtype);
  check_temperature("logsumexp", temperature, self, dim, lane_dtype(self.scalar_type(), out));
  return empty_of(self, row_sizes(self, dim, /*keepdim=*/true), out);
}

Tensor logsumexp_backward(
    const Tensor& grad,
    const Tensor& self,
    const optional<Tensor>& temperature,
    int64_t dim,
    double) {
  dim = wrapped_dim("logsumexp_backward", dim, self.dim());
  check_element_type("logsumexp_backward", "input", self);
  check_element_type("logsumexp_backward", "grad", grad);
  check_same_device("logsumexp_backward", "grad", grad, self);
  check_row_values("logsumexp_backward", "grad", grad, self, dim, /*keepdim=*/true);
  check_temperature(
      "logsumexp_backward",
      temperature,
      self,
      dim,
      lane_dtype(self.scalar_type(), grad.scalar_type()));
  return empty_like_sizes(self, self.scalar_type());
}

}  // namespace outputs
}  // namespace softmax_ext
