#pragma once
// The primitives as C++ functions: typed calls through the dispatcher. They own the kernels, the
// derivatives and the vmap rules; public operators are made of them.

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "csrc/signatures.h"

namespace softmax_ext {

// A string as a template argument.
template <size_t size>
struct Name {
  char characters[size];
  constexpr Name(const char (&text)[size]) { std::copy_n(text, size, characters); }
};

// The operator `name` and its overload, looked up at the first call.
template <Name name, typename Signature, Name overload = "">
struct Operator;

template <Name name, typename Result, typename... Arguments, Name overload>
struct Operator<name, Result(Arguments...), overload> {
  Result operator()(Arguments... arguments) const {
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow(name.characters, overload.characters)
                                   .template typed<Result(Arguments...)>();
    return handle.call(std::forward<Arguments>(arguments)...);
  }
};

namespace primitive {

using namespace signature;

inline constexpr Operator<"softmax_ext::_softmax", Normalize> softmax;
inline constexpr Operator<"softmax_ext::_softmax_backward", NormalizeBackward> softmax_backward;
inline constexpr Operator<"softmax_ext::_log_softmax", Normalize> log_softmax;
inline constexpr Operator<"softmax_ext::_log_softmax_backward", NormalizeBackward>
    log_softmax_backward;
inline constexpr Operator<"softmax_ext::_softmax_into", NormalizeInto> softmax_into;
inline constexpr Operator<"softmax_ext::_softmax_backward_into", NormalizeBackwardInto>
    softmax_backward_into;
inline constexpr Operator<"softmax_ext::_log_softmax_into", NormalizeInto> log_softmax_into;
inline constexpr Operator<"softmax_ext::_log_softmax_backward_into", NormalizeBackwardInto>
    log_softmax_backward_into;
inline constexpr Operator<"softmax_ext::_logsumexp", Normalize> logsumexp;
inline constexpr Operator<"softmax_ext::_logsumexp_backward", LogSumExpBackward> logsumexp_backward;
inline constexpr Operator<"softmax_ext::_cross_entropy", CrossEntropy> cross_entropy;
inline constexpr Operator<"softmax_ext::_cross_entropy_backward", CrossEntropyBackward>
    cross_entropy_backward;
inline constexpr Operator<"softmax_ext::_cross_entropy_with_gradient", CrossEntropyWithGradient>
    cross_entropy_with_gradient;
inline constexpr Operator<"softmax_ext::_cross_entropy_in_place", CrossEntropyInPlace>
    cross_entropy_in_place;
inline constexpr Operator<"softmax_ext::_linear_cross_entropy", LinearCrossEntropy>
    linear_cross_entropy;
inline constexpr Operator<"softmax_ext::_linear_cross_entropy_backward", LinearCrossEntropyBackward>
    linear_cross_entropy_backward;
inline constexpr Operator<"softmax_ext::_scale_gradient", ScaleGradient> scale_gradient;
inline constexpr Operator<"softmax_ext::_class_indices", ClassIndices> class_indices;
inline constexpr Operator<"softmax_ext::_temperature_statistics", TemperatureStatistics>
    temperature_statistics;
inline constexpr Operator<"softmax_ext::_sample", Sample> sample;
inline constexpr Operator<"softmax_ext::_entropy", Entropy> entropy;
inline constexpr Operator<"softmax_ext::_entropy_backward", EntropyBackward> entropy_backward;
inline constexpr Operator<"softmax_ext::_masked_softmax", MaskedSoftmax> masked_softmax;

}  // namespace primitive
}  // namespace softmax_ext
