#pragma once
// The C++ API: one declaration per operator. Each is a typed call of the dispatcher operator of the
// same name (torch.ops.softmax_ext.<name>), so autograd, autocast and every device work as from
// Python. Tensors are on one device; float64, float32, bfloat16 and float16 are supported.
//
// Errors are torch's: c10::IndexError for a dim or target out of range, c10::ValueError for a value
// that is not allowed, c10::NotImplementedError for a dtype or option that is not supported,
// c10::Error else.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>

#define SOFTMAX_EXT_API __attribute__((visibility("default")))

namespace softmax_ext {

using at::Tensor;
using std::optional;

// exp(x/T) / Σ exp(x/T) over `dim`. Shape of `input`, contiguous; dtype `dtype`, else that of
// `input`. Conversion to `dtype` is part of the same pass. `temperature` T broadcasts against
// `input` with size 1 in `dim`, and is differentiable; T = 0 gives the uniform distribution over
// the maxima, T = ∞ that over all finite logits.
SOFTMAX_EXT_API Tensor softmax(
    const Tensor& input,
    int64_t dim,
    optional<at::ScalarType> dtype = std::nullopt,
    const optional<Tensor>& temperature = std::nullopt);
SOFTMAX_EXT_API Tensor
softmax(const Tensor& input, int64_t dim, optional<at::ScalarType> dtype, double temperature);

// log(softmax(input)), with the same arguments, in nats.
SOFTMAX_EXT_API Tensor log_softmax(
    const Tensor& input,
    int64_t dim,
    optional<at::ScalarType> dtype = std::nullopt,
    const optional<Tensor>& temperature = std::nullopt);
SOFTMAX_EXT_API Tensor
log_softmax(const Tensor& input, int64_t dim, optional<at::ScalarType> dtype, double temperature);

// log Σ exp(x/T) over the dims `dim`, which are dropped or, with `keepdim`, kept with size 1.
// Integer input is converted to the default dtype.
SOFTMAX_EXT_API Tensor logsumexp(
    const Tensor& input,
    at::IntArrayRef dim,
    bool keepdim = false,
    const optional<Tensor>& temperature = std::nullopt);
SOFTMAX_EXT_API Tensor
logsumexp(const Tensor& input, at::IntArrayRef dim, bool keepdim, double temperature);

// The options of cross_entropy, as in the Python package; the defaults are torch's.
struct CrossEntropyOptions {
  optional<Tensor> weight = std::nullopt;  // one per class
  int64_t reduction = 1;  // 0 none, 1 mean over the rows that are not ignored, 2 sum
  c10::SymInt ignore_index = -100;
  double label_smoothing = 0.0;
  optional<Tensor> temperature = std::nullopt;  // broadcasts, with size 1 in the dim of the classes
  optional<double> softcap = std::nullopt;
  double z_loss = 0.0;
  std::string_view empty = "nan";           // the mean over no row; or "zero"
  std::string_view gradient = "recompute";  // or "forward", "inplace"
};

// −log softmax(input)[target], in nats. `input` is [N, C, …] or [C]; `target` class indices (int64,
// int32, uint8) of shape [N, …] or [], in [0, C) or ignore_index, or probabilities of the input's
// shape. float64 for float64 input, else float32.
SOFTMAX_EXT_API Tensor
cross_entropy(const Tensor& input, const Tensor& target, const CrossEntropyOptions& options = {});

struct TemperatureFit {
  double temperature;
  double nll;       // mean over the rows, at that temperature
  bool is_clamped;  // to a bound that the best temperature lies beyond
  int64_t passes;   // over the logits, at most 10
};

// The temperature in [min_temperature, max_temperature] at which the mean negative log-likelihood of
// `target` under softmax(input / T) is least; arguments as those of cross_entropy. Not
// differentiable. c10::ValueError where a row that counts has no finite loss, or no row counts.
SOFTMAX_EXT_API TemperatureFit fit_temperature(
    const Tensor& input,
    const Tensor& target,
    const optional<Tensor>& weight = std::nullopt,
    c10::SymInt ignore_index = -100,
    double min_temperature = 0.05,
    double max_temperature = 20.0);

// The options of sample, as in the Python package; one of `generator` and `seed` at most.
struct SampleOptions {
  double temperature = 1.0;  // 0: the largest logit
  int64_t top_k = 0;         // off at 0
  double top_p = 1.0;        // off from 1 on
  double min_p = 0.0;        // off at 0
  c10::SymInt num_samples = 1;
  optional<at::Generator> generator = std::nullopt;
  optional<Tensor> seed = std::nullopt;  // one, or one per row; of an integer dtype
};

// Indices drawn from softmax(logits / T), filtered, along the last dim (int64), and their
// log-probabilities after filtering: both [rows…, num_samples], not differentiable.
SOFTMAX_EXT_API std::tuple<Tensor, Tensor> sample(
    const Tensor& logits, const SampleOptions& options = {});

// The entropy −Σ p log p of softmax(input / T) along `dim`, which is dropped, with logarithms of `base`.
// float64 for float64 input, else float32.
SOFTMAX_EXT_API Tensor entropy(
    const Tensor& input,
    int64_t dim,
    const optional<Tensor>& temperature = std::nullopt,
    double base = 2.718281828459045);
SOFTMAX_EXT_API Tensor
entropy(const Tensor& input, int64_t dim, double temperature, double base = 2.718281828459045);

// softmax over the entries that `mask` keeps (bool, broadcasts), 0 elsewhere; `dtype` as there. `empty`: what a row is
// that keeps no logit above −inf, "nan" or "zero".
SOFTMAX_EXT_API Tensor masked_softmax(
    const Tensor& input,
    const Tensor& mask,
    int64_t dim,
    optional<at::ScalarType> dtype = std::nullopt,
    const optional<Tensor>& temperature = std::nullopt,
    std::string_view empty = "nan");
SOFTMAX_EXT_API Tensor masked_softmax(
    const Tensor& input,
    const Tensor& mask,
    int64_t dim,
    optional<at::ScalarType> dtype,
    double temperature,
    std::string_view empty = "nan");

// softmax of scores [..., queries, keys] over the keys up to the query's own, the last query's being
// the last key.
SOFTMAX_EXT_API Tensor causal_softmax(
    const Tensor& scores,
    optional<at::ScalarType> dtype = std::nullopt,
    const optional<Tensor>& temperature = std::nullopt,
    std::string_view empty = "zero");
SOFTMAX_EXT_API Tensor causal_softmax(
    const Tensor& scores,
    optional<at::ScalarType> dtype,
    double temperature,
    std::string_view empty = "zero");

}  // namespace softmax_ext

// The library's version, as "0.1.0".
extern "C" SOFTMAX_EXT_API const char* softmax_ext_version();
