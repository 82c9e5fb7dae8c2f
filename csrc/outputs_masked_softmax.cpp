#include "csrc/output_checks.h"
#include "csrc/outputs.h"

namespace softmax_ext::outputs {
namespace {

void check_mask(const char* op, const Tensor& mask, const Tensor& self) {
  TORCH_CHECK(
      mask.scalar_type() == at::kBool,
      op,
      ": expected a mask of dtype bool, got ",
      mask.scalar_type());
  check_same_device(op, "mask", mask, self);
  const int64_t offset = self.dim() - mask.dim();
  bool is_broadcast = offset >= 0;
  for (int64_t i = 0; is_broadcast && i < mask.dim(); ++i)
    is_broadcast = mask.sym_size(i)
                       .sym_eq(1)
                       .sym_or(mask.sym_size(i).sym_eq(self.sym_size(i + offset)))
                       .expect_true(__FILE__, __LINE__);
  TORCH_CHECK_VALUE(
      is_broadcast,
      op,
      ": expected a mask that broadcasts against the input of shape ",
      self.sym_sizes(),
      ", got shape ",
      mask.sym_sizes());
}

}  // namespace

Tensor masked_softmax(
    const Tensor& self,
    const optional<Tensor>& mask,
    const optional<Tensor>& temperature,
    int64_t dim,
    double,
    optional<int64_t> dtype,
    bool is_causal,
    bool) {
  const char* const op = is_causal ? "causal_softmax" : "masked_softmax";
  const auto out = output_dtype(op, self, dtype);
  const bool has_mask = mask && mask->defined();
  TORCH_CHECK(has_mask || is_causal, op, ": expected a mask, got none");
  TORCH_CHECK(!(has_mask && is_causal), op, ": expected no mask, got one");
  TORCH_CHECK(
      !is_causal || self.dim() >= 2,
      op,
      ": expected scores of shape [..., queries, keys], got ",
      self.sym_sizes());
  check_normalized(op, self, temperature, dim, out);
  TORCH_CHECK(
      !is_causal || wrapped_dim(op, dim, self.dim()) == self.dim() - 1,
      op,
      ": expected the last dim, got ",
      dim);
  if (has_mask) check_mask(op, *mask, self);
  return empty_like_sizes(self, out);
}

}  // namespace softmax_ext::outputs
