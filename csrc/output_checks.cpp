#include "csrc/output_checks.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>

#include "csrc/element_type.h"
#include "csrc/huge_pages.h"
#include "csrc/outputs.h"

namespace softmax_ext::outputs {

void check_element_type(const char* op, const char* name, const Tensor& tensor, bool has_dtype) {
  const bool is_integral = at::isIntegralType(tensor.scalar_type(), /*includeBool=*/true);
  TORCH_CHECK_NOT_IMPLEMENTED(
      is_element_type(tensor.scalar_type()),
      op,
      ": expected ",
      name,
      " of dtype float64, float32, bfloat16 or float16, got ",
      tensor.scalar_type(),
      is_integral && has_dtype ? "; give dtype= to convert it" : "");
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

void check_same_sizes(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  check_sizes(op, name, tensor, like.sym_sizes());
}

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

at::ScalarType output_dtype(const char* op, const Tensor& self, optional<int64_t> dtype) {
  return dtype ? dtype_of_code(op, *dtype) : self.scalar_type();
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

}  // namespace softmax_ext::outputs
