// The table of contents: every operator's schema, with its Meta and composite registrations. CPU
// kernels are registered in csrc/cpu, CUDA kernels in cuda, derivatives in csrc/autograd, vmap
// rules in python/softmax_ext/_vmap.py.
//
// Public operators:
//   The default overload takes `Tensor? temperature`: a plain call then matches the first overload,
//   and the gradient of a tensor temperature is never dropped. `.float` takes a number.
//
// Primitives (underscore):
//   temperature  one per row, broadcast against self with size 1 in dim, in the dtype of the
//                arithmetic (float64 if any tensor is float64, else float32); where it is given,
//                scale is not used
//   scale        1/T for a number T
//   dtype        of the result, as the int of its c10::ScalarType
//   Outputs are contiguous and never an input's memory; what writes to an argument says so by (a!).
//   Their backwards are primitives too.

#include "csrc/loss_outputs.h"
#include "csrc/outputs.h"
#include "csrc/public_operators.h"
#include "csrc/registration.h"
#include "csrc/softmax_ext.h"

const char* softmax_ext_version() { return SOFTMAX_EXT_VERSION; }

namespace softmax_ext {

bool is_first_copy() {
  static const bool is_first = [] {
    const bool is_registered =
        c10::Dispatcher::singleton().findSchema({"softmax_ext::_softmax", ""}).has_value();
    if (is_registered)
      TORCH_WARN(
          "softmax_ext: its operators are registered already; this second copy of the library, "
          "version " SOFTMAX_EXT_VERSION ", is not used. Load one copy only.");
    return !is_registered;
  }();
  return is_first;
}

}  // namespace softmax_ext

// A fragment, as torch takes the full form only once in a process.
TORCH_LIBRARY_FRAGMENT(softmax_ext, m) {
  if (!softmax_ext::is_first_copy()) return;
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};

  m.def(
      "softmax(Tensor self, int dim, ScalarType? dtype=None, *, Tensor? temperature=None) -> "
      "Tensor",
      tags);
  m.def(
      "softmax.float(Tensor self, int dim, ScalarType? dtype=None, *, float temperature) -> Tensor",
      tags);
  m.def(
      "log_softmax(Tensor self, int dim, ScalarType? dtype=None, *, Tensor? temperature=None) -> "
      "Tensor",
      tags);
  m.def(
      "log_softmax.float(Tensor self, int dim, ScalarType? dtype=None, *, float temperature) -> "
      "Tensor",
      tags);
  // As torch's out=: resized if it has another shape, and not for use with autograd.
  for (const char* const name : {"softmax", "log_softmax"}) {
    m.def(
        c10::str(
            name,
            ".out(Tensor self, int dim, ScalarType? dtype=None, *, Tensor? temperature=None, "
            "Tensor(a!) out) -> Tensor(a!)")
            .c_str(),
        tags);
    m.def(
        c10::str(
            name,
            ".float_out(Tensor self, int dim, ScalarType? dtype=None, *, float temperature, "
            "Tensor(a!) out) -> Tensor(a!)")
            .c_str(),
        tags);
  }
  m.def(
      "logsumexp(Tensor self, int[1] dim, bool keepdim=False, *, Tensor? temperature=None) -> "
      "Tensor",
      tags);
  m.def(
      "logsumexp.float(Tensor self, int[1] dim, bool keepdim=False, *, float temperature) -> "
      "Tensor",
      tags);
  // The temperature is no keyword: what scripts call has no keyword-only default.
  const std::string before =
      "Tensor self, Tensor target, Tensor? weight=None, int reduction=1, SymInt ignore_index=-100, "
      "float label_smoothing=0.0, Tensor? temperature=None";
  const std::string before_float =
      "Tensor self, Tensor target, Tensor? weight, int reduction, SymInt ignore_index, float "
      "label_smoothing, float temperature";
  const std::string after = ", float? softcap=None, float z_loss=0.0, str empty=\"nan\"";
  const std::string way = ", str gradient=\"recompute\"";
  for (const auto& [overload, first] : {std::pair("", before), std::pair(".float", before_float)}) {
    m.def(c10::str("cross_entropy", overload, "(", first, after, way, ") -> Tensor").c_str(), tags);
    m.def(
        c10::str(
            "cross_entropy_with_logsumexp", overload, "(", first, after, ") -> (Tensor, Tensor)")
            .c_str(),
        tags);
  }
  const std::string linear_before =
      "Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias=None, Tensor? "
      "weight=None, int reduction=1, SymInt? ignore_index=None, float label_smoothing=0.0, Tensor? "
      "temperature=None";
  const std::string linear_before_float =
      "Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias, Tensor? weight, int "
      "reduction, SymInt? ignore_index, float label_smoothing, float temperature";
  for (const auto& [overload, first] :
       {std::pair("", linear_before), std::pair(".float", linear_before_float)})
    m.def(
        c10::str(
            "linear_cross_entropy",
            overload,
            "(",
            first,
            after,
            ", str gradient=\"forward\", SymInt? chunk=None) -> Tensor")
            .c_str(),
        tags);
  // Of what it yields, numbers; so no tag: it cannot be traced.
  m.def(
      "fit_temperature(Tensor self, Tensor target, Tensor? weight=None, SymInt ignore_index=-100, "
      "float min_temperature=0.05, float max_temperature=20.0) -> (float temperature, float nll, "
      "bool is_clamped, int passes)");

  m.def(
      "_softmax(Tensor self, Tensor? temperature, int dim, float scale, int? dtype) -> Tensor",
      tags);
  m.def(
      "_softmax_backward(Tensor grad, Tensor output, Tensor? temperature, int dim, float scale, "
      "int dtype) -> Tensor",
      tags);
  m.def(
      "_log_softmax(Tensor self, Tensor? temperature, int dim, float scale, int? dtype) -> Tensor",
      tags);
  m.def(
      "_log_softmax_backward(Tensor grad, Tensor output, Tensor? temperature, int dim, float "
      "scale, int dtype) "
      "-> Tensor",
      tags);
  // Primitives with `out`: contiguous, one of the inputs itself or apart from all of them.
  for (const char* const name : {"_softmax_into", "_log_softmax_into"})
    m.def(
        c10::str(
            name,
            "(Tensor logits, Tensor? temperature, int dim, float scale, Tensor(a!) out) -> ()")
            .c_str(),
        tags);
  for (const char* const name : {"_softmax_backward_into", "_log_softmax_backward_into"})
    m.def(
        c10::str(
            name,
            "(Tensor grad, Tensor output, Tensor? temperature, int dim, float scale, Tensor(a!) "
            "out) -> ()")
            .c_str(),
        tags);
  for (const char* const name : {"_softmax_backward", "_log_softmax_backward"})
    m.def(
        c10::str(
            name,
            ".out(Tensor grad, Tensor output, Tensor? temperature, int dim, float scale, int "
            "dtype, *, Tensor(a!) out) -> Tensor(a!)")
            .c_str(),
        tags);
  // Keeps dim, with size 1.
  m.def(
      "_logsumexp(Tensor self, Tensor? temperature, int dim, float scale, int? dtype) -> Tensor",
      tags);
  m.def(
      "_logsumexp_backward(Tensor grad, Tensor self, Tensor? temperature, int dim, float scale) -> "
      "Tensor",
      tags);
  // (loss, count, statistics, logsumexp): the losses of rows (csrc/losses.h), added up in float64 in a
  // fixed order over all but the first `leading` dims (reduction 2) and divided by their count (1), or
  // one per row (0). count and statistics are what backward needs, and not differentiable.
  const std::string rows_and_options =
      "int dim, int reduction, int leading, SymInt ignore_index, Tensor? weight=None, Tensor? "
      "temperature=None, float scale=1.0, float label_smoothing=0.0, float softcap=0.0, float "
      "z_loss=0.0";
  m.def(
      c10::str(
          "_cross_entropy(Tensor self, Tensor target, ",
          rows_and_options,
          ", bool has_logsumexp=False) -> (Tensor, Tensor, Tensor, Tensor)")
          .c_str(),
      tags);
  m.def(
      "_cross_entropy_backward(Tensor grad, Tensor self, Tensor target, Tensor count, Tensor "
      "statistics, int dim, int reduction, SymInt ignore_index, Tensor? weight=None, Tensor? "
      "temperature=None, float scale=1.0, float label_smoothing=0.0, float softcap=0.0, float "
      "z_loss=0.0, Tensor? grad_logsumexp=None) -> Tensor",
      tags);
  // And the gradient in the same pass, for an upstream gradient of 1; _scale_gradient is the rest of
  // backward.
  m.def(
      c10::str(
          "_cross_entropy_with_gradient(Tensor self, Tensor target, ",
          rows_and_options,
          ") -> (Tensor, Tensor, Tensor, Tensor)")
          .c_str(),
      tags);
  m.def(
      c10::str(
          "_cross_entropy_in_place(Tensor(a!) self, Tensor target, ",
          rows_and_options,
          ") -> (Tensor, Tensor, Tensor)")
          .c_str(),
      tags);
  // Of rows whose classes are split: those from first_class on, of `classes`. [4, rows…]: max and
  // log Σ exp((x − max)/T) of the shard, Σ q_j · (−log p_j) with p of its own log-sum-exp, and Σ q;
  // python/softmax_ext/distributed merges them. Targets are of all classes. Backward has max and
  // log-sum of the whole row as statistics, and makes the gradient of grad · Σ q_j · (−log p_j) +
  // grad_logsumexp · lse. Not differentiable: what is, is what they are merged to.
  const std::string shard =
      "int dim, SymInt first_class, SymInt classes, SymInt ignore_index, Tensor? weight=None, "
      "Tensor? temperature=None, float scale=1.0, float label_smoothing=0.0, float softcap=0.0";
  m.def(
      c10::str("_cross_entropy_shard(Tensor self, Tensor target, ", shard, ") -> Tensor").c_str(),
      tags);
  m.def(
      c10::str(
          "_cross_entropy_shard_backward(Tensor grad, Tensor grad_logsumexp, Tensor self, Tensor "
          "target, Tensor statistics, ",
          shard,
          ") -> Tensor")
          .c_str(),
      tags);
  // The logits are those of a linear layer, and never there as a whole (csrc/linear_cross_entropy.cpp).
  const std::string linear =
      "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, SymInt chunk, "
      "bool[3] wanted, int reduction, SymInt ignore_index, Tensor? weight=None, Tensor? "
      "temperature=None, float scale=1.0, float label_smoothing=0.0, float softcap=0.0, float "
      "z_loss=0.0";
  m.def(
      c10::str(
          "_linear_cross_entropy(", linear, ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
          .c_str(),
      tags);
  m.def(
      c10::str(
          "_linear_cross_entropy_backward(Tensor grad, Tensor count, Tensor statistics, ",
          linear,
          ") -> (Tensor, Tensor, Tensor)")
          .c_str(),
      tags);
  // Targets as int64, checked, with 0 in ignored rows.
  m.def("_class_indices(Tensor self, Tensor target, int dim, SymInt ignore_index) -> Tensor", tags);
  m.def("_scale_gradient(Tensor(a!) gradient, Tensor grad, int dim) -> ()", tags);
  // Sums over rows of which fit_temperature is made; not differentiable. weight: one per row.
  m.def(
      "_temperature_statistics(Tensor self, Tensor target, Tensor? weight, int dim, float scale) "
      "-> "
      "Tensor",
      tags);
  // (indices, log-probabilities), each [rows…, num_samples], along the last dim; neither is
  // differentiable. A function of its arguments: `seed` has the shape of the first dims of self, and
  // the random numbers of a row are those of its seed and of its index among the rows that share it.
  // Options are float64, or int64 for top_ks, and broadcast over the rows.
  m.def(
      "_sample(Tensor self, Tensor seed, Tensor? temperatures, Tensor? top_ks, Tensor? top_ps, "
      "Tensor? min_ps, float scale, int top_k, float top_p, float min_p, SymInt num_samples) -> "
      "(Tensor, Tensor)",
      tags);
  const std::vector<at::Tag> random_tags{
      at::Tag::pt2_compliant_tag, at::Tag::nondeterministic_seeded};
  const char* const last =
      "SymInt num_samples=1, Generator? generator=None, Tensor? seed=None) -> ";
  m.def(
      c10::str(
          "sample(Tensor self, float temperature=1.0, int top_k=0, float top_p=1.0, float "
          "min_p=0.0, ",
          last,
          "(Tensor, Tensor)")
          .c_str(),
      random_tags);
  m.def(
      c10::str(
          "sample.tensors(Tensor self, Tensor? temperature, Tensor? top_k, Tensor? top_p, Tensor? "
          "min_p, ",
          last,
          "(Tensor, Tensor)")
          .c_str(),
      random_tags);

  m.def(
      "entropy(Tensor self, int dim, *, Tensor? temperature=None, float base=2.718281828459045) -> "
      "Tensor",
      tags);
  m.def(
      "entropy.float(Tensor self, int dim, *, float temperature, float base=2.718281828459045) -> "
      "Tensor",
      tags);
  m.def(
      "masked_softmax(Tensor self, Tensor mask, int dim, ScalarType? dtype=None, *, Tensor? "
      "temperature=None, str empty=\"nan\") -> Tensor",
      tags);
  m.def(
      "masked_softmax.float(Tensor self, Tensor mask, int dim, ScalarType? dtype=None, *, float "
      "temperature, str empty=\"nan\") -> Tensor",
      tags);
  m.def(
      "causal_softmax(Tensor self, ScalarType? dtype=None, *, Tensor? temperature=None, str "
      "empty=\"zero\") -> Tensor",
      tags);
  m.def(
      "causal_softmax.float(Tensor self, ScalarType? dtype=None, *, float temperature, str "
      "empty=\"zero\") -> Tensor",
      tags);
  // Its derivative is _softmax_backward: probabilities that are 0 say what was left out.
  m.def(
      "_masked_softmax(Tensor self, Tensor? mask, Tensor? temperature, int dim, float scale, int? "
      "dtype, bool is_causal, bool empty_is_zero) -> Tensor",
      tags);
  // In nats; keeps dim, with size 1, in the dtype of the arithmetic.
  m.def("_entropy(Tensor self, Tensor? temperature, int dim, float scale) -> Tensor", tags);
  m.def(
      "_entropy_backward(Tensor grad, Tensor self, Tensor? temperature, int dim, float scale) -> "
      "Tensor",
      tags);
}

namespace softmax_ext {

// Composite for every backend, and as decomposition under vmap, where composites are not taken
// apart by themselves.
void register_public_operators(torch::Library& m) {
  m.impl("softmax", &public_operator::softmax);
  m.impl("softmax.float", &public_operator::softmax_float);
  m.impl("log_softmax", &public_operator::log_softmax);
  m.impl("log_softmax.float", &public_operator::log_softmax_float);
  m.impl("logsumexp", &public_operator::logsumexp);
  m.impl("logsumexp.float", &public_operator::logsumexp_float);
  m.impl("cross_entropy", &public_operator::cross_entropy);
  m.impl("cross_entropy.float", &public_operator::cross_entropy_float);
  m.impl("cross_entropy_with_logsumexp", &public_operator::cross_entropy_with_logsumexp);
  m.impl(
      "cross_entropy_with_logsumexp.float", &public_operator::cross_entropy_with_logsumexp_float);
  m.impl("linear_cross_entropy", &public_operator::linear_cross_entropy);
  m.impl("linear_cross_entropy.float", &public_operator::linear_cross_entropy_float);
  m.impl("sample", &public_operator::sample);
  m.impl("sample.tensors", &public_operator::sample_tensors);
  m.impl("entropy", &public_operator::entropy);
  m.impl("entropy.float", &public_operator::entropy_float);
  m.impl("masked_softmax", &public_operator::masked_softmax);
  m.impl("masked_softmax.float", &public_operator::masked_softmax_float);
  m.impl("causal_softmax", &public_operator::causal_softmax);
  m.impl("causal_softmax.float", &public_operator::causal_softmax_float);
}

}  // namespace softmax_ext

SOFTMAX_EXT_LIBRARY_IMPL(CompositeImplicitAutograd, m) {
  namespace public_operator = softmax_ext::public_operator;
  softmax_ext::register_public_operators(m);
  m.impl("softmax.out", &public_operator::softmax_out);
  m.impl("softmax.float_out", &public_operator::softmax_float_out);
  m.impl("log_softmax.out", &public_operator::log_softmax_out);
  m.impl("log_softmax.float_out", &public_operator::log_softmax_float_out);
  m.impl("_softmax_backward.out", &public_operator::softmax_backward_out);
  m.impl("_log_softmax_backward.out", &public_operator::log_softmax_backward_out);
  m.impl("fit_temperature", &public_operator::fit_temperature);
}
// On devices without a kernel of their own.
SOFTMAX_EXT_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("_temperature_statistics", &softmax_ext::public_operator::temperature_statistics);
}
// What has an output is not differentiated, and says so (public_operators.cpp); nor are classes and
// what is drawn.
SOFTMAX_EXT_LIBRARY_IMPL(Autograd, m) {
  for (const char* const name :
       {"_softmax_into",
        "_log_softmax_into",
        "_softmax_backward_into",
        "_log_softmax_backward_into",
        "_scale_gradient",
        "_class_indices",
        "_temperature_statistics",
        "_cross_entropy_shard",
        "_cross_entropy_shard_backward",
        "_sample"})
    m.impl(name, torch::CppFunction::makeFallthrough());
}
SOFTMAX_EXT_LIBRARY_IMPL(FuncTorchBatchedDecomposition, m) {
  softmax_ext::register_public_operators(m);
}

SOFTMAX_EXT_LIBRARY_IMPL(Meta, m) {
  namespace outputs = softmax_ext::outputs;
  m.impl("_softmax", &outputs::softmax);
  m.impl("_softmax_backward", &outputs::softmax_backward);
  m.impl("_log_softmax", &outputs::log_softmax);
  m.impl("_log_softmax_backward", &outputs::log_softmax_backward);
  m.impl("_softmax_into", &outputs::softmax_into);
  m.impl("_softmax_backward_into", &outputs::softmax_backward_into);
  m.impl("_log_softmax_into", &outputs::log_softmax_into);
  m.impl("_log_softmax_backward_into", &outputs::log_softmax_backward_into);
  m.impl("_logsumexp", &outputs::logsumexp);
  m.impl("_logsumexp_backward", &outputs::logsumexp_backward);
  softmax_ext::register_losses<
      outputs::cross_entropy,
      outputs::cross_entropy_with_gradient,
      outputs::cross_entropy_in_place,
      outputs::cross_entropy_backward>(m);
  softmax_ext::
      register_loss_shards<outputs::cross_entropy_shard, outputs::cross_entropy_shard_backward>(m);
  m.impl(
      "_linear_cross_entropy",
      &softmax_ext::linear_cross_entropy_of<outputs::linear_cross_entropy>);
  m.impl(
      "_linear_cross_entropy_backward",
      &softmax_ext::linear_cross_entropy_backward_of<outputs::linear_cross_entropy_backward>);
  m.impl("_scale_gradient", &outputs::scale_gradient);
  m.impl("_class_indices", &outputs::class_indices);
  m.impl("_temperature_statistics", &outputs::temperature_statistics);
  m.impl("_sample", &outputs::sample);
  m.impl("_entropy", &outputs::entropy);
  m.impl("_entropy_backward", &outputs::entropy_backward);
  m.impl("_masked_softmax", &outputs::masked_softmax);
}
