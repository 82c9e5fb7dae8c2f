#pragma once
// Registration with the dispatcher, for one copy of this library in a process.

#include <torch/library.h>

namespace softmax_ext {

// Whether no other copy of the library has registered the operators. A second copy registers
// nothing, and warns: torch would end the process at the first schema that it has already.
bool is_first_copy();

}  // namespace softmax_ext

// As TORCH_LIBRARY_IMPL(softmax_ext, key, m).
#define SOFTMAX_EXT_LIBRARY_IMPL(key, m)                                   \
  static void softmax_ext_register_##key(torch::Library& m);               \
  TORCH_LIBRARY_IMPL(softmax_ext, key, library) {                          \
    if (softmax_ext::is_first_copy()) softmax_ext_register_##key(library); \
  }                                                                        \
  static void softmax_ext_register_##key(torch::Library& m)
