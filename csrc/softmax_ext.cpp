#include "csrc/softmax_ext.h"

#include "csrc/primitives.h"

namespace softmax_ext {
namespace {

using OfTensor =
    Tensor(const Tensor&, int64_t, optional<at::ScalarType>, const optional<Tensor>& temperature);
using OfNumber = Tensor(const Tensor&, int64_t, optional<at::ScalarType>, double temperature);
using ReductionOfTensor =
    Tensor(const Tensor&, at::IntArrayRef, bool keepdim, const optional<Tensor>& temperature);
using ReductionOfNumber = Tensor(const Tensor&, at::IntArrayRef, bool keepdim, double temperature);
using Loss = Tensor(
    const Tensor&,
    const Tensor&,
    const optional<Tensor>&,
    int64_t,
    c10::SymInt,
    double,
    const optional<Tensor>&,
    optional<double>,
    double,
    std::string_view,
    std::string_view);

using Fit = std::tuple<double, double, bool, int64_t>(
    const Tensor&, const Tensor&, const optional<Tensor>&, c10::SymInt, double, double);
using Sample = std::tuple<Tensor, Tensor>(
    const Tensor&,
    double temperature,
    int64_t top_k,
    double top_p,
    double min_p,
    c10::SymInt num_samples,
    const optional<at::Generator>&,
    const optional<Tensor>& seed);
using Entropy = Tensor(const Tensor&, int64_t, const optional<Tensor>&, double base);
using EntropyOfNumber = Tensor(const Tensor&, int64_t, double temperature, double base);
template <typename Temperature>
using Masked = Tensor(
    const Tensor&,
    const Tensor&,
    int64_t,
    optional<at::ScalarType>,
    Temperature,
    std::string_view empty);
template <typename Temperature>
using Causal = Tensor(const Tensor&, optional<at::ScalarType>, Temperature, std::string_view empty);

}  // namespace

Tensor softmax(
    const Tensor& input,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature) {
  return Operator<"softmax_ext::softmax", OfTensor>()(input, dim, dtype, temperature);
}

Tensor softmax(
    const Tensor& input, int64_t dim, optional<at::ScalarType> dtype, double temperature) {
  return Operator<"softmax_ext::softmax", OfNumber, "float">()(input, dim, dtype, temperature);
}

Tensor log_softmax(
    const Tensor& input,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature) {
  return Operator<"softmax_ext::log_softmax", OfTensor>()(input, dim, dtype, temperature);
}

Tensor log_softmax(
    const Tensor& input, int64_t dim, optional<at::ScalarType> dtype, double temperature) {
  return Operator<"softmax_ext::log_softmax", OfNumber, "float">()(input, dim, dtype, temperature);
}

Tensor logsumexp(
    const Tensor& input, at::IntArrayRef dim, bool keepdim, const optional<Tensor>& temperature) {
  return Operator<"softmax_ext::logsumexp", ReductionOfTensor>()(input, dim, keepdim, temperature);
}

Tensor logsumexp(const Tensor& input, at::IntArrayRef dim, bool keepdim, double temperature) {
  return Operator<"softmax_ext::logsumexp", ReductionOfNumber, "float">()(
      input, dim, keepdim, temperature);
}

Tensor cross_entropy(
    const Tensor& input, const Tensor& target, const CrossEntropyOptions& options) {
  return Operator<"softmax_ext::cross_entropy", Loss>()(
      input,
      target,
      options.weight,
      options.reduction,
      options.ignore_index,
      options.label_smoothing,
      options.temperature,
      options.softcap,
      options.z_loss,
      options.empty,
      options.gradient);
}

TemperatureFit fit_temperature(
    const Tensor& input,
    const Tensor& target,
    const optional<Tensor>& weight,
    c10::SymInt ignore_index,
    double min_temperature,
    double max_temperature) {
  const auto [temperature, nll, is_clamped, passes] =
      Operator<"softmax_ext::fit_temperature", Fit>()(
          input, target, weight, std::move(ignore_index), min_temperature, max_temperature);
  return {temperature, nll, is_clamped, passes};
}

std::tuple<Tensor, Tensor> sample(const Tensor& logits, const SampleOptions& options) {
  return Operator<"softmax_ext::sample", Sample>()(
      logits,
      options.temperature,
      options.top_k,
      options.top_p,
      options.min_p,
      options.num_samples,
      options.generator,
      options.seed);
}

Tensor entropy(const Tensor& input, int64_t dim, const optional<Tensor>& temperature, double base) {
  return Operator<"softmax_ext::entropy", Entropy>()(input, dim, temperature, base);
}

Tensor entropy(const Tensor& input, int64_t dim, double temperature, double base) {
  return Operator<"softmax_ext::entropy", EntropyOfNumber, "float">()(
      input, dim, temperature, base);
}

Tensor masked_softmax(
    const Tensor& input,
    const Tensor& mask,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    std::string_view empty) {
  return Operator<"softmax_ext::masked_softmax", Masked<const optional<Tensor>&>>()(
      input, mask, dim, dtype, temperature, empty);
}

Tensor masked_softmax(
    const Tensor& input,
    const Tensor& mask,
    int64_t dim,
    optional<at::ScalarType> dtype,
    double temperature,
    std::string_view empty) {
  return Operator<"softmax_ext::masked_softmax", Masked<double>, "float">()(
      input, mask, dim, dtype, temperature, empty);
}

Tensor causal_softmax(
    const Tensor& scores,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    std::string_view empty) {
  return Operator<"softmax_ext::causal_softmax", Causal<const optional<Tensor>&>>()(
      scores, dtype, temperature, empty);
}

Tensor causal_softmax(
    const Tensor& scores,
    optional<at::ScalarType> dtype,
    double temperature,
    std::string_view empty) {
  return Operator<"softmax_ext::causal_softmax", Causal<double>, "float">()(
      scores, dtype, temperature, empty);
}

}  // namespace softmax_ext
