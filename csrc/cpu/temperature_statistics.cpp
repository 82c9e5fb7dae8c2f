#include <vector>

#include "csrc/cpu/walk_rows.h"
#include "csrc/loss_outputs.h"
#include "csrc/numerics/logit_moments.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

// Rows whose statistics are added up one after the other; these sums are then added in their order.
// It depends on the length of the rows, and not on the number of threads.
int64_t rows_of_sum(int64_t length) {
  constexpr int64_t kMostRows = 2 * simd::kColumns;
  return std::clamp<int64_t>(kElementsPerThread / std::max<int64_t>(length, 1), 1, kMostRows);
}

template <typename T>
class Statistics {
 public:
  using Lane = LaneOf<T>;
  using Element = KernelElement<T>;

  Statistics(
      const Tensor& self, int64_t dim, const int64_t* target, const double* weight, double scale)
      : rows_(Rows::of(self, dim)),
        logits_(RowView::of(self, dim)),
        in_(input_rows<T>(logits_)),
        target_(target),
        weight_(weight),
        scale_(static_cast<Lane>(scale)) {}

  LossStatistics sum() {
    if (rows_.count() == 0) return {};
    const bool are_rows = in_.has_rows(rows_.length);
    if (are_rows && rows_.length > simd::kChunk) {
      sum_long_rows();
    } else {
      const bool has_kernel = rows_.length > 0 && (are_rows || in_.has_columns());
      prepare(are_rows ? rows_of_sum(rows_.length) : simd::kColumns);
      for_each_range(rows_, rows_at_once_, [&](int64_t begin, int64_t end) {
        for (int64_t first = begin; first < end; first += rows_at_once_) {
          const int64_t last = std::min(end, first + rows_at_once_);
          if (!has_kernel)
            for (int64_t row = first; row < last; ++row) add(row, staged(row));
          else
            for_each_run(
                first,
                last,
                [&](int64_t row, int64_t count) { add_run(row, count, are_rows); },
                in_);
        }
      });
    }
    LossStatistics total;
    for (const auto& sum : sums_) total += sum;
    return total;
  }

 private:
  using Moments = LogitMoments<Lane>;

  Rows rows_;
  RowView logits_;
  TensorRows<const Element> in_;
  const int64_t* target_;
  const double* weight_;
  Lane scale_;
  int64_t rows_at_once_ = 1;
  std::vector<LossStatistics> sums_;

  static const auto& table() { return of_type<Element>(*kernels().moments); }

  void prepare(int64_t rows_at_once) {
    rows_at_once_ = rows_at_once;
    sums_.resize((rows_.count() + rows_at_once - 1) / rows_at_once);
  }

  void add(int64_t row, const Moments& moments) {
    const double weight = weight_ == nullptr ? 1 : weight_[row];
    if (weight == 0) return;
    const int64_t target = target_[row];
    TORCH_CHECK_INDEX(
        0 <= target && target < rows_.length,
        "temperature_statistics: expected targets in [0, ",
        rows_.length,
        "), got ",
        target);
    const auto* const logits = reinterpret_cast<const T*>(in_[row]);
    const auto target_logit = static_cast<Lane>(logits[target * in_.length_stride]);
    sums_[row / rows_at_once_] += statistics_of_row(moments, target_logit, scale_, weight);
  }

  void add_run(int64_t row, int64_t count, bool are_rows) {
    constexpr int64_t kRoom = 64 / sizeof(float);  // of the longest vector
    Lane* const max = scratch<Lane, 1>(count + kRoom);
    double* const rest = scratch<double, 2>(3 * (count + kRoom));
    double* const first = rest + count + kRoom;
    double* const second = first + count + kRoom;
    (are_rows ? table().rows : table().columns)(
        {in_[row],
         are_rows ? in_.offsets.strides[0] : in_.length_stride,
         count,
         rows_.length,
         scale_,
         max,
         rest,
         first,
         second});
    for (int64_t r = 0; r < count; ++r)
      add(row + r,
          {
              {max[r], rest[r]},
              first[r], second[r]
      });
  }

  Moments staged(int64_t row) {
    Lane* const logits = scratch<Lane, 3>(rows_.length);
    gather(in_[row], in_.length_stride, rows_.length, logits);
    Moments moments = Moments::empty();
    for (int64_t offset = 0; offset < rows_.length; offset += simd::kChunk) {
      const auto chunk =
          of_type<Lane>(*kernels().moments)
              .summarize(logits + offset, std::min(simd::kChunk, rows_.length - offset), scale_);
      moments = offset == 0 ? chunk : merge(moments, chunk, scale_);
    }
    return moments;
  }

  void sum_long_rows() {
    prepare(1);
    const int64_t chunks = chunks_of(rows_.length);
    const bool are_shared = rows_.count() < at::get_num_threads();
    Moments* const shared = scratch<Moments>((are_shared ? rows_.count() : 1) * chunks);
    const auto moments = [&](int64_t row) {
      return are_shared ? shared + row * chunks : scratch<Moments>(chunks);
    };
    for_each_long_row(
        rows_,
        [&](int64_t row, int64_t chunk, int64_t offset, int64_t count) {
          moments(row)[chunk] = table().summarize(in_[row] + offset, count, scale_);
        },
        [&](int64_t row) {
          const Moments* const of_chunks = moments(row);
          Moments whole = of_chunks[0];
          for (int64_t chunk = 1; chunk < chunks; ++chunk)
            whole = merge(whole, of_chunks[chunk], scale_);
          add(row, whole);
        },
        [](auto...) {});
  }
};

Tensor temperature_statistics(
    const Tensor& self,
    const Tensor& target,
    const optional<Tensor>& weight,
    int64_t dim,
    double scale) {
  const Tensor result = outputs::temperature_statistics(self, target, weight, dim, scale);
  dim = wrapped_dim("temperature_statistics", dim, self.dim());
  const Tensor targets = target.contiguous();
  const Tensor weights = weight ? weight->contiguous() : Tensor();
  with_element_type(self.scalar_type(), [&]<typename T>() {
    const auto sum = Statistics<T>(
                         self,
                         dim,
                         targets.const_data_ptr<int64_t>(),
                         weight ? weights.const_data_ptr<double>() : nullptr,
                         scale)
                         .sum();
    double* const numbers = result.mutable_data_ptr<double>();
    numbers[0] = sum.weight;
    numbers[1] = sum.loss;
    numbers[2] = sum.distance;
    numbers[3] = sum.expected_distance;
    numbers[4] = sum.variance;
  });
  return result;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) {
  m.impl("_temperature_statistics", &softmax_ext::cpu::temperature_statistics);
}
