#include "csrc/public_operators.h"

#include <ATen/native/Resize.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <vector>

#include "csrc/arguments.h"
#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/primitives.h"

namespace softmax_ext::public_operator {
namespace {

// The dims wrapped and sorted; all of them when none is named.
std::vector<int64_t> wrapped_dims(const char* op, at::IntArrayRef dims, int64_t rank) {
  std::vector<int64_t> wrapped;
  for (const int64_t dim : dims) wrapped.push_back(wrapped_dim(op, dim, rank));
  if (dims.empty())
    for (int64_t dim = 0; dim < rank; ++dim) wrapped.push_back(dim);
  std::sort(wrapped.begin(), wrapped.end());
  const auto twice = std::adjacent_find(wrapped.begin(), wrapped.end());
  TORCH_CHECK(
      twice == wrapped.end(),
      op,
      ": expected each dim once, got dim ",
      *twice,
      " more than once in ",
      dims);
  return wrapped;
}

// `dims` (sorted, at least two) moved to the end and made one.
Tensor flattened(const Tensor& tensor, const std::vector<int64_t>& dims) {
  std::vector<int64_t> last;
  for (size_t i = 0; i < dims.size(); ++i)
    last.push_back(tensor.dim() - static_cast<int64_t>(dims.size() - i));
  return tensor.movedim(dims, last).flatten(last.front(), -1);
}

// A temperature that broadcasts against `self`, after `dims` of `self` were flattened.
Tensor flattened_temperature(
    const Tensor& temperature, const Tensor& self, const std::vector<int64_t>& dims) {
  if (temperature.dim() == 0) return temperature;
  Tensor full = temperature;
  while (full.dim() < self.dim()) full = full.unsqueeze(0);
  return flattened(full, dims);
}

Tensor logsumexp_over(
    const Tensor& self,
    at::IntArrayRef dims,
    bool keepdim,
    const optional<Tensor>& temperature,
    double scale) {
  const Tensor input = at::isIntegralType(self.scalar_type(), /*includeBool=*/true)
                           ? self.to(at::get_default_dtype())
                           : self;
  const auto arguments = resolved("logsumexp", input, std::nullopt, temperature);
  const auto wrapped = wrapped_dims("logsumexp", dims, self.dim());
  if (wrapped.size() <= 1) {
    const int64_t dim = wrapped.empty() ? 0 : wrapped[0];
    const Tensor result =
        primitive::logsumexp(arguments.self, arguments.temperature, dim, scale, std::nullopt);
    return keepdim || self.dim() == 0 ? result : result.squeeze(dim);
  }
  optional<Tensor> row_temperature;
  if (arguments.temperature)
    row_temperature = flattened_temperature(*arguments.temperature, input, wrapped);
  Tensor result = primitive::logsumexp(
                      flattened(arguments.self, wrapped), row_temperature, -1, scale, std::nullopt)
                      .squeeze(-1);
  if (keepdim)
    for (const int64_t dim : wrapped) result = result.unsqueeze(dim);
  return result;
}

bool is_differentiated(const Tensor& tensor) {
  return (tensor.requires_grad() && c10::GradMode::is_enabled()) ||
         tensor._fw_grad(/*level=*/0).defined();
}

// What all that write to `out` share, once their inputs were checked: write(temperature) where it
// can be written as it is, else a copy of what make(temperature) returns.
template <typename Write, typename Make>
Tensor& to_out(
    const char* op,
    at::ScalarType dtype,
    std::initializer_list<const Tensor*> inputs,
    optional<Tensor> temperature,
    Tensor& out,
    Write write,
    Make make) {
  const Tensor& like = **inputs.begin();
  bool is_any_differentiated =
      is_differentiated(out) || (temperature && is_differentiated(*temperature));
  for (const Tensor* const input : inputs)
    is_any_differentiated = is_any_differentiated || is_differentiated(*input);
  TORCH_CHECK(
      !is_any_differentiated,
      op,
      ": functions with out=... arguments don't support automatic differentiation, but one of the "
      "arguments requires grad");
  TORCH_CHECK(
      !out.is_inference() || c10::InferenceMode::is_enabled(),
      op,
      ": expected an out that can be written to, got an inference tensor outside InferenceMode; "
      "clone it");
  TORCH_CHECK(
      out.scalar_type() == dtype,
      op,
      ": expected out of dtype ",
      dtype,
      ", got ",
      out.scalar_type());
  TORCH_CHECK(
      out.device() == like.device(),
      op,
      ": expected out on the input's device ",
      like.device(),
      ", got ",
      out.device());
  if (temperature && out.is_alias_of(*temperature)) temperature = temperature->clone();
  at::native::resize_output_symint(out, like.sym_sizes());
  bool is_writable = out.is_contiguous();
  for (const Tensor* const input : inputs) {
    const Overlap overlap = overlap_of(out, *input);
    check_overlap(op, overlap, Overlap::unknown);
    is_writable = is_writable && overlap == Overlap::none_or_same;
  }
  if (is_writable)
    write(temperature);
  else
    out.copy_(make(temperature));
  return out;
}

// softmax or log_softmax, and its primitive with an output.
template <typename Make, typename Into>
struct Normalization {
  const char* name;
  Make make;
  Into into;
};
constexpr Normalization kSoftmax{"softmax", primitive::softmax, primitive::softmax_into};
constexpr Normalization kLogSoftmax{
    "log_softmax", primitive::log_softmax, primitive::log_softmax_into};
constexpr Normalization kSoftmaxBackward{
    "softmax_backward", primitive::softmax_backward, primitive::softmax_backward_into};
constexpr Normalization kLogSoftmaxBackward{
    "log_softmax_backward", primitive::log_softmax_backward, primitive::log_softmax_backward_into};

template <typename Operators>
Tensor& normalized_to_out(
    const Operators& operators,
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    double scale,
    Tensor& out) {
  const auto [input, lanes, code] = resolved(operators.name, self, dtype, temperature);
  const auto result = dtype.value_or(self.scalar_type());
  outputs::check_normalized(operators.name, input, lanes, dim, result);
  return to_out(
      operators.name,
      result,
      {&input},
      lanes,
      out,
      [&, &in = input](const optional<Tensor>& t) { operators.into(in, t, dim, scale, out); },
      [&, &in = input, &to = code](const optional<Tensor>& t) {
        return operators.make(in, t, dim, scale, to);
      });
}

template <typename Operators>
Tensor& gradient_to_out(
    const Operators& operators,
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    int64_t dtype,
    Tensor& out) {
  const auto result = dtype_of_code(operators.name, dtype);
  outputs::check_normalized_backward(operators.name, grad, output, temperature, dim, result);
  return to_out(
      operators.name,
      result,
      {&grad, &output},
      temperature,
      out,
      [&](const optional<Tensor>& t) { operators.into(grad, output, t, dim, scale, out); },
      [&](const optional<Tensor>& t) {
        return operators.make(grad, output, t, dim, scale, dtype);
      });
}

}  // namespace

Tensor softmax(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature) {
  if (!dtype && !temperature) return primitive::softmax(self, std::nullopt, dim, 1.0, std::nullopt);
  const auto arguments = resolved("softmax", self, dtype, temperature);
  return primitive::softmax(arguments.self, arguments.temperature, dim, 1.0, arguments.dtype);
}

Tensor softmax_float(
    const Tensor& self, int64_t dim, optional<at::ScalarType> dtype, double temperature) {
  const double scale = scale_of("softmax", temperature);
  const auto arguments = resolved("softmax", self, dtype, std::nullopt);
  return primitive::softmax(arguments.self, std::nullopt, dim, scale, arguments.dtype);
}

Tensor log_softmax(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature) {
  if (!dtype && !temperature)
    return primitive::log_softmax(self, std::nullopt, dim, 1.0, std::nullopt);
  const auto arguments = resolved("log_softmax", self, dtype, temperature);
  return primitive::log_softmax(arguments.self, arguments.temperature, dim, 1.0, arguments.dtype);
}

Tensor log_softmax_float(
    const Tensor& self, int64_t dim, optional<at::ScalarType> dtype, double temperature) {
  const double scale = scale_of("log_softmax", temperature);
  const auto arguments = resolved("log_softmax", self, dtype, std::nullopt);
  return primitive::log_softmax(arguments.self, std::nullopt, dim, scale, arguments.dtype);
}

Tensor& softmax_out(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    Tensor& out) {
  return normalized_to_out(kSoftmax, self, dim, dtype, temperature, 1.0, out);
}

Tensor& softmax_float_out(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    double temperature,
    Tensor& out) {
  const double scale = scale_of("softmax", temperature);
  return normalized_to_out(kSoftmax, self, dim, dtype, std::nullopt, scale, out);
}

Tensor& log_softmax_out(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    Tensor& out) {
  return normalized_to_out(kLogSoftmax, self, dim, dtype, temperature, 1.0, out);
}

Tensor& log_softmax_float_out(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    double temperature,
    Tensor& out) {
  const double scale = scale_of("log_softmax", temperature);
  return normalized_to_out(kLogSoftmax, self, dim, dtype, std::nullopt, scale, out);
}

Tensor& softmax_backward_out(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    int64_t dtype,
    Tensor& out) {
  return gradient_to_out(kSoftmaxBackward, grad, output, temperature, dim, scale, dtype, out);
}

Tensor& log_softmax_backward_out(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    int64_t dtype,
    Tensor& out) {
  return gradient_to_out(kLogSoftmaxBackward, grad, output, temperature, dim, scale, dtype, out);
}

Tensor logsumexp(
    const Tensor& self, at::IntArrayRef dim, bool keepdim, const optional<Tensor>& temperature) {
  return logsumexp_over(self, dim, keepdim, temperature, 1.0);
}

Tensor logsumexp_float(const Tensor& self, at::IntArrayRef dim, bool keepdim, double temperature) {
  TORCH_CHECK_VALUE(temperature > 0, "logsumexp: expected a temperature > 0, got ", temperature);
  return logsumexp_over(self, dim, keepdim, std::nullopt, 1 / temperature);
}

}  // namespace softmax_ext::public_operator
