#pragma once
// The cross-entropy loss of a row of logits, with all of its options, and its arguments as one value.
//
// With logits x (after the softcap s: s · tanh(x/s)), temperature T, p = softmax(x/T), C classes,
// weights w (1 without them) and smoothing e, classes have the weights
//
//   q_j = w_j · (e/C + [j = t] · (1 − e))     for the class t
//   q_j = w_j · (e/C + t_j · (1 − e))         for probabilities t
//
//   loss    Σ q_j · (−log p_j) + z · lse²,   lse = log Σ exp(x/T)
//   d/dx_j  ((Σq + 2 z · lse) · p_j − q_j) / T · (1 − (x_j/s)²)
//
// where 0 · (−log 0) is 0. Rows whose class is ignored have loss 0 and gradient 0. The mean divides by
// Σ w_t over the other rows, or for probabilities by the number of rows.

#include <torch/library.h>

#include <utility>

#include "csrc/signatures.h"

namespace softmax_ext {

// Where the logits are of some of the classes alone: those from `first` on, of `classes`.
struct ClassShard {
  c10::SymInt first;
  c10::SymInt classes;
};

// What is the same for all rows.
struct LossArguments {
  int64_t dim;
  int64_t reduction;
  int64_t leading;  // dims that are not reduced over
  c10::SymInt ignore_index;
  optional<Tensor> weight;       // of each class, in the dtype of the arithmetic
  optional<Tensor> temperature;  // broadcasts against the logits with size 1 in dim
  double scale = 1;              // 1/T without it
  double label_smoothing = 0;
  double softcap = 0;  // 0: none
  double z_loss = 0;
  optional<ClassShard> shard = std::nullopt;  // all classes

  bool has_weight() const { return weight && weight->defined(); }
  bool has_temperature() const { return temperature && temperature->defined(); }
  // What the smoothing is spread over, of logits with `length` of them.
  c10::SymInt classes(c10::SymInt length) const { return shard ? shard->classes : length; }
};

inline bool has_classes(const Tensor& target) { return !target.is_floating_point(); }

// −log p of a class, and nothing else.
inline bool is_plain(const LossArguments& loss, const Tensor& target) {
  return has_classes(target) && !loss.has_weight() && !loss.has_temperature() && loss.scale == 1 &&
         loss.label_smoothing == 0 && loss.softcap == 0 && loss.z_loss == 0;
}

// Kernels and derivatives are functions of LossArguments; these are what is registered for them.
template <auto function>
std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_of(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss,
    bool has_logsumexp) {
  return function(
      self,
      target,
      LossArguments{
          dim,
          reduction,
          leading,
          std::move(ignore_index),
          weight,
          temperature,
          scale,
          label_smoothing,
          softcap,
          z_loss},
      has_logsumexp);
}
template <auto function>
auto cross_entropy_and_gradient_of(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    int64_t reduction,
    int64_t leading,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss) {
  return function(
      self,
      target,
      LossArguments{
          dim,
          reduction,
          leading,
          std::move(ignore_index),
          weight,
          temperature,
          scale,
          label_smoothing,
          softcap,
          z_loss});
}
template <auto function>
Tensor cross_entropy_backward_of(
    const Tensor& grad,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    int64_t dim,
    int64_t reduction,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss,
    const optional<Tensor>& grad_logsumexp) {
  return function(
      grad,
      grad_logsumexp,
      self,
      target,
      count,
      statistics,
      LossArguments{
          dim,
          reduction,
          count.dim(),
          std::move(ignore_index),
          weight,
          temperature,
          scale,
          label_smoothing,
          softcap,
          z_loss});
}

template <auto function>
Tensor cross_entropy_shard_of(
    const Tensor& self,
    const Tensor& target,
    int64_t dim,
    c10::SymInt first_class,
    c10::SymInt classes,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap) {
  return function(
      self,
      target,
      LossArguments{
          dim,
          Reduction::none,
 /*leading=*/0,
          std::move(ignore_index),
          weight,
          temperature,
          scale,
          label_smoothing,
          softcap,
 /*z_loss=*/0,
          ClassShard{std::move(first_class), std::move(classes)}
  });
}
template <auto function>
Tensor cross_entropy_shard_backward_of(
    const Tensor& grad,
    const Tensor& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& statistics,
    int64_t dim,
    c10::SymInt first_class,
    c10::SymInt classes,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap) {
  return function(
      grad,
      grad_logsumexp,
      self,
      target,
      statistics,
      LossArguments{
          dim,
          Reduction::none,
 /*leading=*/0,
          std::move(ignore_index),
          weight,
          temperature,
          scale,
          label_smoothing,
          softcap,
 /*z_loss=*/0,
          ClassShard{std::move(first_class), std::move(classes)}
  });
}

// The linear layer whose outputs are the logits.
struct LinearLayer {
  Tensor input;                  // [rows, features]
  Tensor weight;                 // [classes, features]
  optional<Tensor> bias;         // [classes]
  c10::SymInt chunk;             // rows of logits at a time
  std::array<bool, 3> wanted{};  // the gradients of which of the three

  bool has_bias() const { return bias && bias->defined(); }
  bool wants_any() const { return wanted[0] || wanted[1] || wanted[2]; }
};

template <auto function>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_of(
    const Tensor& input,
    const Tensor& linear_weight,
    const optional<Tensor>& linear_bias,
    const Tensor& target,
    c10::SymInt chunk,
    std::array<bool, 3> wanted,
    int64_t reduction,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss) {
  return function(
      LinearLayer{input, linear_weight, linear_bias, std::move(chunk), wanted},
      target,
      LossArguments{
          /*dim=*/1,
          reduction,
          /*leading=*/0,
          std::move(ignore_index),
          weight,
          temperature,
          scale,
          label_smoothing,
          softcap,
          z_loss});
}
template <auto function>
std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward_of(
    const Tensor& grad,
    const Tensor& count,
    const Tensor& statistics,
    const Tensor& input,
    const Tensor& linear_weight,
    const optional<Tensor>& linear_bias,
    const Tensor& target,
    c10::SymInt chunk,
    std::array<bool, 3> wanted,
    int64_t reduction,
    c10::SymInt ignore_index,
    const optional<Tensor>& weight,
    const optional<Tensor>& temperature,
    double scale,
    double label_smoothing,
    double softcap,
    double z_loss) {
  return function(
      grad,
      count,
      statistics,
      LinearLayer{input, linear_weight, linear_bias, std::move(chunk), wanted},
      target,
      LossArguments{
          /*dim=*/1,
          reduction,
          /*leading=*/0,
          std::move(ignore_index),
          weight,
          temperature,
          scale,
          label_smoothing,
          softcap,
          z_loss});
}
template <typename Primitive, typename... First>
auto call_linear_loss(
    const Primitive& primitive,
    const LinearLayer& layer,
    const Tensor& target,
    const LossArguments& loss,
    const First&... first) {
  return primitive(
      first...,
      layer.input,
      layer.weight,
      layer.bias,
      target,
      layer.chunk,
      layer.wanted,
      loss.reduction,
      loss.ignore_index,
      loss.weight,
      loss.temperature,
      loss.scale,
      loss.label_smoothing,
      loss.softcap,
      loss.z_loss);
}

template <auto forward, auto with_gradient, auto in_place, auto backward>
void register_losses(torch::Library& m) {
  m.impl("_cross_entropy", &cross_entropy_of<forward>);
  m.impl("_cross_entropy_with_gradient", &cross_entropy_and_gradient_of<with_gradient>);
  m.impl("_cross_entropy_in_place", &cross_entropy_and_gradient_of<in_place>);
  m.impl("_cross_entropy_backward", &cross_entropy_backward_of<backward>);
}

template <auto forward, auto backward>
void register_loss_shards(torch::Library& m) {
  m.impl("_cross_entropy_shard", &cross_entropy_shard_of<forward>);
  m.impl("_cross_entropy_shard_backward", &cross_entropy_shard_backward_of<backward>);
}

// Calls of the primitives, which take what LossArguments holds one by one.
template <typename Primitive, typename... Last>
auto call_loss(
    const Primitive& primitive,
    const Tensor& self,
    const Tensor& target,
    const LossArguments& loss,
    const Last&... last) {
  return primitive(
      self,
      target,
      loss.dim,
      loss.reduction,
      loss.leading,
      loss.ignore_index,
      loss.weight,
      loss.temperature,
      loss.scale,
      loss.label_smoothing,
      loss.softcap,
      loss.z_loss,
      last...);
}
template <typename Primitive>
Tensor call_loss_backward(
    const Primitive& primitive,
    const Tensor& grad,
    const optional<Tensor>& grad_logsumexp,
    const Tensor& self,
    const Tensor& target,
    const Tensor& count,
    const Tensor& statistics,
    const LossArguments& loss) {
  return primitive(
      grad,
      self,
      target,
      count,
      statistics,
      loss.dim,
      loss.reduction,
      loss.ignore_index,
      loss.weight,
      loss.temperature,
      loss.scale,
      loss.label_smoothing,
      loss.softcap,
      loss.z_loss,
      grad_logsumexp);
}

}  // namespace softmax_ext
