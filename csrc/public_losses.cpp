// cross_entropy with all of its options: csrc/losses.h has the formula.

#include "csrc/primitives.h"
#include "csrc/resolved_loss.h"

namespace softmax_ext::public_operator {
namespace {

// A class index for each row of a matrix and no option: what the formulas above come to, sooner.
bool is_usual(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& temperature,
    const LossOptions& options) {
  return self.dim() == 2 && target.dim() == 1 && target.scalar_type() == at::kLong &&
         !temperature && !options.weight && options.label_smoothing == 0 && !options.softcap &&
         options.z_loss == 0 && options.empty == "nan" && options.gradient == "recompute" &&
         self.sym_size(0).sym_eq(target.sym_size(0)).guard_or_false(__FILE__, __LINE__);
}

}  // namespace

Tensor cross_entropy(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t reduction,
    c10::SymInt ignore_index,
    double label_smoothing,
    const optional<Tensor>& temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty,
    std::string_view gradient) {
  const LossOptions options{
      weight,
      reduction,
      std::move(ignore_index),
      label_smoothing,
      softcap,
      z_loss,
      empty,
      gradient};
  if (is_usual(self, target, temperature, options))
    return std::get<0>(primitive::cross_entropy(
        self,
        target,
        /*dim=*/1,
        reduction,
        /*leading=*/0,
        options.ignore_index,
        std::nullopt,
        std::nullopt,
        /*scale=*/1,
        /*label_smoothing=*/0,
        /*softcap=*/0,
        /*z_loss=*/0,
        /*has_logsumexp=*/false));
  return cross_entropy_of(resolved(self, target, temperature, 1, options), options, false).first;
}

Tensor cross_entropy_float(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t reduction,
    c10::SymInt ignore_index,
    double label_smoothing,
    double temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty,
    std::string_view gradient) {
  const LossOptions options{
      weight,
      reduction,
      std::move(ignore_index),
      label_smoothing,
      softcap,
      z_loss,
      empty,
      gradient};
  const double scale = scale_of(temperature);
  return cross_entropy_of(resolved(self, target, std::nullopt, scale, options), options, false)
      .first;
}

std::tuple<Tensor, Tensor> cross_entropy_with_logsumexp(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t reduction,
    c10::SymInt ignore_index,
    double label_smoothing,
    const optional<Tensor>& temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty) {
  const LossOptions options{
      weight, reduction, std::move(ignore_index), label_smoothing, softcap, z_loss, empty};
  return cross_entropy_of(resolved(self, target, temperature, 1, options), options, true);
}

std::tuple<Tensor, Tensor> cross_entropy_with_logsumexp_float(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t reduction,
    c10::SymInt ignore_index,
    double label_smoothing,
    double temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty) {
  const LossOptions options{
      weight, reduction, std::move(ignore_index), label_smoothing, softcap, z_loss, empty};
  const double scale = scale_of(temperature);
  return cross_entropy_of(resolved(self, target, std::nullopt, scale, options), options, true);
}

}  // namespace softmax_ext::public_operator
