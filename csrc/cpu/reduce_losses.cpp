#include "csrc/element_type.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

// One thread, from the first row to the last: the order is fixed and the work is nothing beside
// that of the losses.
std::tuple<Tensor, Tensor> reduce_losses(
    const Tensor& losses,
    const Tensor& target,
    int64_t leading,
    bool mean,
    c10::SymInt symbolic_ignore_index) {
  auto results = outputs::reduce_losses(losses, target, leading, mean, symbolic_ignore_index);
  const int64_t ignore_index = symbolic_ignore_index.expect_int();
  const auto& [result, count] = results;
  const Tensor values = losses.contiguous();
  const Tensor classes = target.to(at::kLong).contiguous();
  const int64_t groups = result.numel();
  const int64_t rows = groups == 0 ? 0 : values.numel() / groups;
  const int64_t* const row_class = classes.const_data_ptr<int64_t>();
  double* const counts = count.mutable_data_ptr<double>();
  with_element_type(losses.scalar_type(), [&]<typename T>() {
    const T* const value = values.const_data_ptr<T>();
    T* const reduced = result.mutable_data_ptr<T>();
    for (int64_t group = 0; group < groups; ++group) {
      double sum = 0;
      int64_t valid = 0;
      for (int64_t row = group * rows; row < (group + 1) * rows; ++row) {
        sum += static_cast<double>(value[row]);
        valid += row_class[row] != ignore_index;
      }
      counts[group] = static_cast<double>(valid);
      reduced[group] = static_cast<T>(mean ? sum / counts[group] : sum);
    }
  });
  return results;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) { m.impl("_reduce_losses", &softmax_ext::cpu::reduce_losses); }
