// What sampling asks of its arguments, and its results: see outputs.h.

#include <ATen/ops/empty.h>

#include "csrc/element_type.h"
#include "csrc/outputs.h"

namespace softmax_ext::outputs {
namespace {

void check_tensor(
    const char* name, const Tensor& tensor, const Tensor& self, at::ScalarType dtype) {
  TORCH_CHECK(
      tensor.device() == self.device(),
      "sample: expected ",
      name,
      " on the logits' device ",
      self.device(),
      ", got ",
      tensor.device());
  TORCH_CHECK(
      tensor.scalar_type() == dtype,
      "sample: expected ",
      name,
      " of dtype ",
      dtype,
      ", got ",
      tensor.scalar_type());
}

void check_option(
    const char* name, const optional<Tensor>& option, const Tensor& self, at::ScalarType dtype) {
  if (!option || !option->defined()) return;
  check_tensor(name, *option, self, dtype);
  const int64_t missing = self.dim() - 1 - option->dim();
  bool broadcasts = missing >= 0;
  for (int64_t i = 0; broadcasts && i < option->dim(); ++i) {
    const c10::SymInt size = option->sym_size(i);
    broadcasts = size.sym_eq(1)
                     .sym_or(size.sym_eq(self.sym_size(i + missing)))
                     .expect_true(__FILE__, __LINE__);
  }
  TORCH_CHECK_VALUE(
      broadcasts,
      "sample: expected ",
      name,
      " to broadcast over the rows, the dims of the logits but the last, got shape ",
      option->sym_sizes(),
      " for logits of shape ",
      self.sym_sizes());
}

}  // namespace

std::tuple<Tensor, Tensor> sample(
    const Tensor& self,
    const Tensor& seed,
    const optional<Tensor>& temperatures,
    const optional<Tensor>& top_ks,
    const optional<Tensor>& top_ps,
    const optional<Tensor>& min_ps,
    double scale,
    int64_t top_k,
    double top_p,
    double min_p,
    c10::SymInt num_samples) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      is_element_type(self.scalar_type()),
      "sample: expected logits of dtype float64, float32, bfloat16 or float16, got ",
      self.scalar_type());
  TORCH_CHECK(self.dim() > 0, "sample: expected logits of shape (…, V), got a 0-d tensor");
  check_tensor("seed", seed, self, at::kLong);
  bool is_prefix = seed.dim() < self.dim();
  for (int64_t i = 0; is_prefix && i < seed.dim(); ++i)
    is_prefix = seed.sym_size(i).sym_eq(self.sym_size(i)).expect_true(__FILE__, __LINE__);
  TORCH_CHECK_VALUE(
      is_prefix,
      "sample: expected one seed, or one for each row: of the shape of the logits' first dims; got "
      "shape ",
      seed.sym_sizes(),
      " for logits of shape ",
      self.sym_sizes());
  check_option("temperature", temperatures, self, at::kDouble);
  check_option("top_k", top_ks, self, at::kLong);
  check_option("top_p", top_ps, self, at::kDouble);
  check_option("min_p", min_ps, self, at::kDouble);
  TORCH_CHECK_VALUE(
      num_samples.sym_ge(1).expect_true(__FILE__, __LINE__),
      "sample: expected num_samples >= 1, got ",
      num_samples);
  c10::SymDimVector sizes(self.sym_sizes().begin(), self.sym_sizes().end());
  sizes.back() = num_samples;
  const auto log_prob = lane_dtype(self.scalar_type());
  return {
      at::empty_symint(sizes, self.options().dtype(at::kLong)),
      at::empty_symint(sizes, self.options().dtype(log_prob))};
}

}  // namespace softmax_ext::outputs
