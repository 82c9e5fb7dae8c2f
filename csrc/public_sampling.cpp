// sample: a seed is drawn from torch's generator, by an operator of torch's, so that whatever knows
// that (compilers, graphs, vmap) knows this; the primitive is a function of it.

#include <ATen/ops/randint.h>

#include <cmath>
#include <limits>

#include "csrc/primitives.h"
#include "csrc/public_operators.h"

namespace softmax_ext::public_operator {
namespace {

Tensor seed_of(
    const Tensor& self, const optional<at::Generator>& generator, const optional<Tensor>& seed) {
  if (seed) {
    TORCH_CHECK_VALUE(!generator, "sample: expected a generator or a seed, got both");
    TORCH_CHECK(
        at::isIntegralType(seed->scalar_type(), /*includeBool=*/false),
        "sample: expected a seed of an integer dtype, got ",
        seed->scalar_type());
    return seed->to(at::kLong);
  }
  return at::randint(
      std::numeric_limits<int64_t>::max(), {}, generator, self.options().dtype(at::kLong));
}

optional<Tensor> converted(const char* name, const optional<Tensor>& option, at::ScalarType dtype) {
  if (!option) return std::nullopt;
  TORCH_CHECK(
      !option->is_complex() && (dtype != at::kLong || !option->is_floating_point()),
      "sample: expected ",
      name,
      dtype == at::kLong ? " of an integer dtype, got " : " of a real dtype, got ",
      option->scalar_type());
  return option->to(dtype);
}

}  // namespace

std::tuple<Tensor, Tensor> sample(
    const Tensor& self,
    double temperature,
    int64_t top_k,
    double top_p,
    double min_p,
    c10::SymInt num_samples,
    const optional<at::Generator>& generator,
    const optional<Tensor>& seed) {
  TORCH_CHECK_VALUE(temperature >= 0, "sample: expected a temperature >= 0, got ", temperature);
  TORCH_CHECK_VALUE(top_p >= 0, "sample: expected top_p >= 0, got ", top_p);
  TORCH_CHECK_VALUE(min_p <= 1, "sample: expected min_p <= 1, got ", min_p);
  return primitive::sample(
      self,
      seed_of(self, generator, seed),
      std::nullopt,
      std::nullopt,
      std::nullopt,
      std::nullopt,
      1 / std::abs(temperature),
      top_k,
      top_p,
      min_p,
      std::move(num_samples));
}

std::tuple<Tensor, Tensor> sample_tensors(
    const Tensor& self,
    const optional<Tensor>& temperature,
    const optional<Tensor>& top_k,
    const optional<Tensor>& top_p,
    const optional<Tensor>& min_p,
    c10::SymInt num_samples,
    const optional<at::Generator>& generator,
    const optional<Tensor>& seed) {
  return primitive::sample(
      self,
      seed_of(self, generator, seed),
      converted("temperature", temperature, at::kDouble),
      converted("top_k", top_k, at::kLong),
      converted("top_p", top_p, at::kDouble),
      converted("min_p", min_p, at::kDouble),
      /*scale=*/1,
      /*top_k=*/0,
      /*top_p=*/1,
      /*min_p=*/0,
      std::move(num_samples));
}

}  // namespace softmax_ext::public_operator
