#include "csrc/cpu/levels.h"

#include <c10/util/Exception.h>
#include <torch/library.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>

#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

#define SOFTMAX_EXT_KERNELS(level)                                                              \
  {                                                                                             \
#level, &simd::level::softmax_table, &simd::level::log_softmax_table,                       \
        &simd::level::softmax_backward_table, &simd::level::log_softmax_backward_table,         \
        &simd::level::reduction_table, &simd::level::logsumexp_backward_table,                  \
        &simd::level::cross_entropy_table, &simd::level::weighted_loss_table,                   \
        &simd::level::moments_table, &simd::level::sampling_table, &simd::level::entropy_table, \
        &simd::level::entropy_backward_table, &simd::level::masked_softmax_table                \
  }

// From the lowest up.
const simd::Kernels kLevels[] = {
    SOFTMAX_EXT_KERNELS(portable),
#if defined(__x86_64__)
    SOFTMAX_EXT_KERNELS(avx2),
    SOFTMAX_EXT_KERNELS(avx512),
#endif
};

int supported_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // What -march=x86-64-v3 and -v4 let the compiler use, as far as it can be asked for.
  const bool is_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                     __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool is_v4 = is_v3 && __builtin_cpu_supports("avx512f") &&
                     __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return is_v4 ? 2 : is_v3 ? 1 : 0;
#else
  return 0;
#endif
}

std::string_view environment(const char* name) {
  const char* const value = std::getenv(name);
  return value ? value : "";
}

int allowed_level() {
  const auto ours = environment("SOFTMAX_EXT_CPU");
  const auto torchs = environment("ATEN_CPU_CAPABILITY");
  TORCH_CHECK_VALUE(
      ours.empty() || ours == "portable" || ours == "avx2" || ours == "avx512",
      "softmax_ext: expected SOFTMAX_EXT_CPU to be portable, avx2 or avx512, got ",
      ours);
  const int of_ours = ours == "portable" ? 0 : ours == "avx2" ? 1 : 2;
  const int of_torch = torchs == "default" ? 0 : torchs == "avx2" ? 1 : 2;
  return of_ours < of_torch ? of_ours : of_torch;
}

}  // namespace

const simd::Kernels& kernels() {
  static const simd::Kernels& chosen = [] {
    const int supported = supported_level();
    const int allowed = allowed_level();
    return std::cref(kLevels[supported < allowed ? supported : allowed]);
  }();
  return chosen;
}

}  // namespace softmax_ext::cpu

TORCH_LIBRARY_FRAGMENT(softmax_ext, m) {
  if (!softmax_ext::is_first_copy()) return;
  m.def("_cpu_level() -> str", [] { return std::string(softmax_ext::cpu::kernels().level); });
}
