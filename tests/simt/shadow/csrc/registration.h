#pragma once
// What registers for CUDA registers for the CPU here: the library of the executor
// (tests/simt/CMakeLists.txt) runs the kernels of cuda/ on tensors of the CPU.

#include_next "csrc/registration.h"

#undef SOFTMAX_EXT_LIBRARY_IMPL
#define SOFTMAX_EXT_LIBRARY_IMPL(key, m)                                   \
  static void softmax_ext_register_##key(torch::Library& m);               \
  TORCH_LIBRARY_IMPL(softmax_ext, CPU, library) {                          \
    if (softmax_ext::is_first_copy()) softmax_ext_register_##key(library); \
  }                                                                        \
  static void softmax_ext_register_##key(torch::Library& m)
