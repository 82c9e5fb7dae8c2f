#include "csrc/outputs.h"

#include <ATen/EmptyTensor.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/ops/empty.h>

#include "csrc/element_type.h"
#include "csrc/huge_pages.h"

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
namespace {

void check_element_type(const char* op, const char* name, const Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      is_element_type(tensor.scalar_type()),
      op,
      ": expected ",
      name,
      " of dtype float64, float32, bfloat16 or float16, got ",
      tensor.scalar_type(),
      at::isIntegralType(tensor.scalar_type(), /*includeBool=*/true) ? "; give dtype= to convert it"
                                                                     : "");
}

void check_same_device(
    const char* op, const char* name, const Tensor& tensor, const Tensor& input) {
  TORCH_CHECK(
      tensor.device() == input.device(),
      op,
      ": expected ",
      name,
      " on the input's device ",
      input.device(),
      ", got ",
      tensor.device());
}

// `of_what` says in the error why that shape is expected.
template <typename... OfWhat>
void check_sizes(
    const char* op,
    const char* name,
    const Tensor& tensor,
    c10::SymIntArrayRef expected,
    const OfWhat&... of_what) {
  TORCH_CHECK(
      tensor.dim() == static_cast<int64_t>(expected.size()),
      op,
      ": expected ",
      name,
      " of shape ",
      expected,
      of_what...,
      ", got ",
      tensor.sym_sizes());
  for (size_t i = 0; i < expected.size(); ++i)
    TORCH_SYM_CHECK(
        tensor.sym_size(static_cast<int64_t>(i)).sym_eq(expected[i]),
        op,
        ": expected ",
        name,
        " of shape ",
        expected,
        of_what...,
        ", got ",
        tensor.sym_sizes());
}

void check_same_sizes(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  check_sizes(op, name, tensor, like.sym_sizes());
}

// The shape of one value per row. With keepdim the reduced dim stays, with size 1.
c10::SymDimVector row_sizes(const Tensor& self, int64_t dim, bool keepdim) {
  c10::SymDimVector sizes(self.sym_sizes().begin(), self.sym_sizes().end());
  if (self.dim() == 0) return sizes;
  if (keepdim)
    sizes[dim] = 1;
  else
    sizes.erase(sizes.begin() + dim);
  return sizes;
}

void check_row_values(
    const char* op,
    const char* name,
    const Tensor& tensor,
    const Tensor& self,
    int64_t dim,
    bool keepdim) {
  check_sizes(op, name, tensor, row_sizes(self, dim, keepdim), " for input ", self.sym_sizes());
}

void check_temperature(
    const char* op,
    const optional<Tensor>& temperature,
    const Tensor& self,
    int64_t dim,
    at::ScalarType lane) {
  if (!temperature || !temperature->defined()) return;
  const Tensor& t = *temperature;
  check_same_device(op, "temperature", t, self);
  TORCH_CHECK(
      t.scalar_type() == lane,
      op,
      ": expected temperature of dtype ",
      lane,
      ", got ",
      t.scalar_type());
  const int64_t offset = self.dim() - t.dim();
  TORCH_CHECK_VALUE(
      offset >= 0,
      op,
      ": expected a temperature that broadcasts against the input of shape ",
      self.sym_sizes(),
      ", got shape ",
      t.sym_sizes());
  for (int64_t i = 0; i < t.dim(); ++i) {
    const c10::SymInt size = t.sym_size(i);
    const c10::SymBool is_one = size.sym_eq(1);
    const bool is_reduced = i + offset == dim;
    TORCH_CHECK_VALUE(
        (is_reduced ? is_one : is_one.sym_or(size.sym_eq(self.sym_size(i + offset))))
            .expect_true(__FILE__, __LINE__),
        op,
        ": expected a temperature that broadcasts against the input of shape ",
        self.sym_sizes(),
        " with size 1 in dim ",
        dim,
        ", got shape ",
        t.sym_sizes());
  }
}

Tensor empty_of(const Tensor& self, c10::SymIntArrayRef sizes, at::ScalarType dtype) {
  // Straight to the allocator for a plain CPU tensor: the dispatcher would take longer than a small
  // row's softmax. A fake tensor has the CPU's key too, but also Python's.
  const auto keys = self.key_set();
  if (keys.has(c10::DispatchKey::CPU) && !keys.has(c10::DispatchKey::Python)) {
    Tensor empty = at::detail::empty_cpu(
        c10::asIntArrayRefUnchecked(sizes),
        dtype,
        std::nullopt,
        std::nullopt,
        std::nullopt,
        std::nullopt);
    const std::size_t bytes = empty.nbytes();
    if (bytes >= kHugePageBytes) advise_huge_pages(empty.mutable_data_ptr(), bytes);
    return empty;
  }
  return at::empty_symint(sizes, self.options().dtype(dtype));
}

Tensor empty_like_sizes(const Tensor& self, at::ScalarType dtype) {
  return empty_of(self, self.sym_sizes(), dtype);
}

at::ScalarType output_dtype(const char* op, const Tensor& self, optional<int64_t> dtype) {
  return dtype ? dtype_of_code(op, *dtype) : self.scalar_type();
}

}  // namespace

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

void check_reduction(const char* op, int64_t reduction) {
  TORCH_CHECK_VALUE(
      Reduction::none <= reduction && reduction <= Reduction::sum,
      op,
      ": expected reduction 0 (none), 1 (mean) or 2 (sum), got ",
      reduction);
}

// Two numbers of each row.
c10::SymDimVector statistics_sizes(const Tensor& self, int64_t dim) {
  auto sizes = row_sizes(self, dim, /*keepdim=*/false);
  sizes.insert(sizes.begin(), 2);
  return sizes;
}

void check_target(const char* op, const Tensor& self, const Tensor& target, int64_t dim) {
  check_same_device(op, "target", target, self);
  const auto dtype = target.scalar_type();
  TORCH_CHECK(
      dtype == at::kLong || dtype == at::kInt || dtype == at::kByte,
      op,
      ": expected class indices of dtype int64, int32 or uint8 as target, got ",
      dtype);
  check_row_values(op, "target", target, self, dim, /*keepdim=*/false);
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

std::tuple<Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt) {
  const char* const op = "cross_entropy";
  dim = wrapped_dim(op, dim, self.dim());
  TORCH_CHECK(
      self.dim() > 0, "cross_entropy: expected an input of at least 1 dim, got a 0-d tensor");
  check_element_type(op, "input", self);
  check_target(op, self, target, dim);
  check_reduction(op, reduction);
  TORCH_CHECK(
      0 <= leading && leading <= target.dim(),
      op,
      ": expected 0 to ",
      target.dim(),
      " leading dims, got ",
      leading);
  const auto sums = target.sym_sizes().slice(0, leading);
  const auto lane = lane_dtype(self.scalar_type());
  return {
      empty_of(self, reduction == Reduction::none ? target.sym_sizes() : sums, lane),
      empty_of(self, sums, at::kDouble),
      empty_of(self, statistics_sizes(self, dim), lane)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_with_gradient(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  return std::tuple_cat(
      cross_entropy(self, target, dim, reduction, leading, std::move(ignore_index)),
      std::tuple(empty_like_sizes(self, self.scalar_type())));
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_in_place(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index) {
  const auto results =
      cross_entropy(self, target, dim, reduction, leading, std::move(ignore_index));
  check_writable("cross_entropy", self);
  return results;
}

Tensor cross_entropy_backward(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    int64_t dim,
    int64_t reduction,
    c10::SymInt) {
  const char* const op = "cross_entropy_backward";
  dim = wrapped_dim(op, dim, self.dim());
  check_element_type(op, "input", self);
  check_target(op, self, target, dim);
  check_reduction(op, reduction);
  const auto lane = lane_dtype(self.scalar_type());
  for (const auto& [name, tensor, dtype] :
       {std::tuple("grad", &grad, lane),
        std::tuple("count", &count, at::kDouble),
        std::tuple("statistics", &statistics, lane)}) {
    check_same_device(op, name, *tensor, self);
    TORCH_CHECK(
        tensor->scalar_type() == dtype,
        op,
        ": expected ",
        name,
        " of dtype ",
        dtype,
        ", got ",
        tensor->scalar_type());
  }
  check_sizes(op, "statistics", statistics, statistics_sizes(self, dim));
  const auto sums = target.sym_sizes().slice(0, std::min(count.dim(), target.dim()));
  check_sizes(op, "count", count, sums);
  check_sizes(op, "grad", grad, reduction == Reduction::none ? target.sym_sizes() : sums);
  return empty_like_sizes(self, self.scalar_type());
}

void check_writable(const char* op, const Tensor& tensor) {
  TORCH_CHECK(
      tensor.is_meta() || tensor.is_non_overlapping_and_dense() ||
          at::has_internal_overlap(tensor) != at::MemOverlap::Yes,
      op,
      ": expected a tensor to write to without elements that share memory, got strides ",
      tensor.sym_strides(),
      "; clone it");
  if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
}

void check_class_target(const char* op, const Tensor& self, const Tensor& target, int64_t dim) {
  check_target(op, self, target, dim);
}

void check_input(const char* op, const Tensor& self) { check_element_type(op, "input", self); }

void check_probability_target(const char* op, const Tensor& self, const Tensor& target) {
  check_same_device(op, "target", target, self);
  TORCH_CHECK(
      target.dim() == self.dim(),
      op,
      ": expected class indices of dtype int64, int32 or uint8 as target, or probabilities of "
      "shape ",
      self.sym_sizes(),
      ", got ",
      target.scalar_type(),
      " of shape ",
      target.sym_sizes());
  check_sizes(op, "target of probabilities", target, self.sym_sizes());
}

void check_class_weight(const char* op, const Tensor& self, const Tensor& weight, int64_t dim) {
  check_same_device(op, "weight", weight, self);
  check_element_type(op, "weight", weight);
  check_sizes(op, "weight", weight, self.sym_sizes().slice(dim, 1), ", one per class");
}

Tensor class_indices(
    const Tensor& self, const Tensor& target, int64_t dim, c10::SymInt ignore_index) {
  const char* const op = "cross_entropy";
  check_target(op, self, target, wrapped_dim(op, dim, self.dim()));
  return empty_of(self, target.sym_sizes(), at::kLong);
}

void scale_gradient(const Tensor& gradient, const Tensor& grad, int64_t dim) {
  const char* const op = "scale_gradient";
  dim = wrapped_dim(op, dim, gradient.dim());
  check_element_type(op, "gradient", gradient);
  check_same_device(op, "grad", grad, gradient);
  const auto lane = lane_dtype(gradient.scalar_type());
  TORCH_CHECK(
      grad.scalar_type() == lane,
      op,
      ": expected grad of dtype ",
      lane,
      ", got ",
      grad.scalar_type());
  const auto rows = row_sizes(gradient, dim, /*keepdim=*/false);
  const auto leading = std::min<size_t>(grad.dim(), rows.size());
  check_sizes(op, "grad", grad, c10::SymIntArrayRef(rows).slice(0, leading));
  TORCH_CHECK(
      grad.dim() <= dim || leading == rows.size(),
      op,
      ": expected a grad of the dims before ",
      dim,
      " or of all rows, got shape ",
      grad.sym_sizes());
  check_writable(op, gradient);
}

}  // namespace outputs
}  // namespace softmax_ext
