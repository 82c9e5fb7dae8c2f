#pragma once
// The public operators: composites of the primitives and ATen operators, so that every transform of
// PyTorch that knows those knows these. They resolve what a user may leave open (dtype,
// temperature, several dims, the reduction). Registered in library.cpp; documented in softmax_ext.h
// and in the Python package.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>

namespace softmax_ext::public_operator {

using at::Tensor;
using std::optional;

Tensor softmax(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature);
Tensor softmax_float(
    const Tensor& self, int64_t dim, optional<at::ScalarType> dtype, double temperature);
Tensor log_softmax(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature);
Tensor log_softmax_float(
    const Tensor& self, int64_t dim, optional<at::ScalarType> dtype, double temperature);
Tensor& softmax_out(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    Tensor& out);
Tensor& softmax_float_out(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    double temperature,
    Tensor& out);
Tensor& log_softmax_out(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    Tensor& out);
Tensor& log_softmax_float_out(
    const Tensor& self,
    int64_t dim,
    optional<at::ScalarType> dtype,
    double temperature,
    Tensor& out);
Tensor& softmax_backward_out(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    int64_t dtype,
    Tensor& out);
Tensor& log_softmax_backward_out(
    const Tensor& grad,
    const Tensor& output,
    const optional<Tensor>& temperature,
    int64_t dim,
    double scale,
    int64_t dtype,
    Tensor& out);
Tensor logsumexp(
    const Tensor& self, at::IntArrayRef dim, bool keepdim, const optional<Tensor>& temperature);
Tensor logsumexp_float(const Tensor& self, at::IntArrayRef dim, bool keepdim, double temperature);

// cross_entropy's options but for the temperature; their meaning is in public_losses.cpp.
struct LossOptions {
  optional<Tensor> weight;
  int64_t reduction;
  c10::SymInt ignore_index;
  double label_smoothing;
  optional<double> softcap;
  double z_loss;
  std::string_view empty;
  std::string_view gradient = "recompute";
};
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
    std::string_view gradient);
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
    std::string_view gradient);
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
    std::string_view empty);
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
    std::string_view empty);

Tensor linear_cross_entropy(
    const Tensor& input,
    const Tensor& linear_weight,
    const Tensor& target,
    const optional<Tensor>& linear_bias,
    const optional<Tensor>& weight,
    int64_t reduction,
    optional<c10::SymInt> ignore_index,
    double label_smoothing,
    const optional<Tensor>& temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty,
    std::string_view gradient,
    optional<c10::SymInt> chunk);
Tensor linear_cross_entropy_float(
    const Tensor& input,
    const Tensor& linear_weight,
    const Tensor& target,
    const optional<Tensor>& linear_bias,
    const optional<Tensor>& weight,
    int64_t reduction,
    optional<c10::SymInt> ignore_index,
    double label_smoothing,
    double temperature,
    optional<double> softcap,
    double z_loss,
    std::string_view empty,
    std::string_view gradient,
    optional<c10::SymInt> chunk);
// (temperature, mean loss there, whether it was clamped, passes over the logits)
std::tuple<double, double, bool, int64_t> fit_temperature(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    c10::SymInt ignore_index,
    double min_temperature,
    double max_temperature);
// The primitive, for devices without a kernel of it.
Tensor temperature_statistics(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t dim,
    double scale);

// In public_sampling.cpp.
std::tuple<Tensor, Tensor> sample(
    const Tensor& self,
    double temperature,
    int64_t top_k,
    double top_p,
    double min_p,
    c10::SymInt num_samples,
    const optional<at::Generator>& generator,
    const optional<Tensor>& seed);
std::tuple<Tensor, Tensor> sample_tensors(
    const Tensor& self,
    const optional<Tensor>& temperature,
    const optional<Tensor>& top_k,
    const optional<Tensor>& top_p,
    const optional<Tensor>& min_p,
    c10::SymInt num_samples,
    const optional<at::Generator>& generator,
    const optional<Tensor>& seed);

Tensor masked_softmax(
    const Tensor& self,
    const Tensor& mask,
    int64_t dim,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    std::string_view empty);
Tensor masked_softmax_float(
    const Tensor& self,
    const Tensor& mask,
    int64_t dim,
    optional<at::ScalarType> dtype,
    double temperature,
    std::string_view empty);
Tensor causal_softmax(
    const Tensor& self,
    optional<at::ScalarType> dtype,
    const optional<Tensor>& temperature,
    std::string_view empty);
Tensor causal_softmax_float(
    const Tensor& self, optional<at::ScalarType> dtype, double temperature, std::string_view empty);

Tensor entropy(const Tensor& self, int64_t dim, const optional<Tensor>& temperature, double base);
Tensor entropy_float(const Tensor& self, int64_t dim, double temperature, double base);

}  // namespace softmax_ext::public_operator
