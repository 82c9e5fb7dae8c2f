#pragma once
// The one list of element types, and the types that arithmetic on them is done in.

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <type_traits>
#include <utility>

namespace softmax_ext {

inline bool is_element_type(c10::ScalarType dtype) {
  return dtype == c10::ScalarType::Double || dtype == c10::ScalarType::Float ||
         dtype == c10::ScalarType::BFloat16 || dtype == c10::ScalarType::Half;
}

// Calls body.template operator()<T>() with T the C++ type of `dtype`, which was checked before.
template <typename Body>
decltype(auto) with_element_type(c10::ScalarType dtype, Body&& body) {
  switch (dtype) {
    case c10::ScalarType::Double:
      return std::forward<Body>(body).template operator()<double>();
    case c10::ScalarType::Float:
      return std::forward<Body>(body).template operator()<float>();
    case c10::ScalarType::BFloat16:
      return std::forward<Body>(body).template operator()<c10::BFloat16>();
    case c10::ScalarType::Half:
      return std::forward<Body>(body).template operator()<c10::Half>();
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked element type ", dtype);
  }
}

// The type of arithmetic for values of these types: double if any is double, else float.
template <typename... Types>
using LaneOf = std::conditional_t<(std::is_same_v<Types, double> || ...), double, float>;

// The same for dtypes. Row results (log-sum-exp, losses) and temperatures have this dtype.
inline c10::ScalarType lane_dtype(c10::ScalarType a, c10::ScalarType b) {
  const bool is_double = a == c10::ScalarType::Double || b == c10::ScalarType::Double;
  return is_double ? c10::ScalarType::Double : c10::ScalarType::Float;
}
inline c10::ScalarType lane_dtype(c10::ScalarType dtype) { return lane_dtype(dtype, dtype); }

}  // namespace softmax_ext
