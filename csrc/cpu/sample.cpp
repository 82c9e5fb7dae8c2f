#include <algorithm>

#include "csrc/cpu/row_sampler.h"
#include "csrc/cpu/walk_rows.h"
#include "csrc/numerics/philox.h"
#include "csrc/outputs.h"
#include "csrc/registration.h"

namespace softmax_ext::cpu {
namespace {

// An option of each row: that of a tensor, else the number.
template <typename T>
class RowOption {
 public:
  RowOption(const optional<Tensor>& option, T number, at::IntArrayRef rows) : number_(number) {
    if (option && option->defined()) values_ = option->expand(rows).contiguous();
  }
  bool is_of_rows() const { return values_.defined(); }
  T operator[](int64_t row) const {
    return is_of_rows() ? values_.const_data_ptr<T>()[row] : number_;
  }

 private:
  T number_;
  Tensor values_;
};

// How each row is sampled, where its random numbers come from, and where its draws go.
struct RowCalls {
  RowOption<double> temperature;
  double scale;
  RowOption<int64_t> top_k;
  RowOption<double> top_p;
  RowOption<double> min_p;
  Tensor seeds;
  int64_t rows_per_seed;
  Tensor indices;
  Tensor log_probs;

  double temperature_of(int64_t row) const {
    return temperature.is_of_rows() ? temperature[row] : 1 / scale;
  }
  SamplingOptions options(int64_t row) const {
    return {
        temperature.is_of_rows() ? inverse_temperature(temperature[row]) : scale,
        top_k[row],
        top_p[row],
        min_p[row]};
  }

  template <typename T>
  void draw(RowSampler<T>& sampler, const T* logits, int64_t length, int64_t row) const {
    using Lane = simd::LaneOf<T>;
    const int64_t count = indices.size(-1);
    int64_t* const index = indices.mutable_data_ptr<int64_t>() + row * count;
    Lane* const log_prob = log_probs.mutable_data_ptr<Lane>() + row * count;
    if (!sampler.prepare(logits, length, options(row))) {
      std::fill_n(index, count, -1);
      return;
    }
    const int64_t seed = seeds.const_data_ptr<int64_t>()[row / rows_per_seed];
    const int64_t index_of_row = row % rows_per_seed;
    at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto drawn = sampler.draw(uniform_of(seed, index_of_row, i));
        index[i] = drawn.index;
        log_prob[i] = drawn.log_prob;
      }
    });
  }
};

// body(first row, end) for the rows: by several threads, or where there are fewer rows than those by
// this one, whose sampler takes others for the parts of a row.
template <typename Body>
void share_rows(const Rows& rows, Body body) {
  if (rows.count() >= at::get_num_threads() || rows.length <= simd::kChunk)
    for_each_range(rows, 1, body);
  else
    body(int64_t{0}, rows.count());
}

template <typename T>
void draw_all(const Rows& rows, const TensorRows<const T>& logits, const RowCalls& calls) {
  using Lane = simd::LaneOf<T>;
  share_rows(rows, [&](int64_t begin, int64_t end) {
    if (logits.has_rows(rows.length)) {
      RowSampler<T> sampler;
      for (int64_t row = begin; row < end; ++row)
        calls.draw(sampler, logits[row], rows.length, row);
      return;
    }
    RowSampler<Lane> sampler;
    Lane* const copy = scratch<Lane>(rows.length);
    for (int64_t row = begin; row < end; ++row) {
      gather(logits[row], logits.length_stride, rows.length, copy);
      calls.draw<Lane>(sampler, copy, rows.length, row);
    }
  });
}

void check_drawn(const Rows& rows, const RowCalls& calls) {
  const int64_t count = calls.indices.size(-1);
  const int64_t* const index = calls.indices.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows.count(); ++row) {
    if (index[row * count] >= 0) continue;
    const SamplingOptions options = calls.options(row);
    TORCH_CHECK_VALUE(
        options.is_valid(),
        "sample: expected temperature >= 0, top_p >= 0 and min_p <= 1, got temperature = ",
        calls.temperature_of(row),
        ", top_p = ",
        options.top_p,
        " and min_p = ",
        options.min_p,
        " for row ",
        row);
    TORCH_CHECK(
        false,
        "sample: expected a finite logit and neither NaN nor +inf in each row, got otherwise in "
        "row ",
        row);
  }
}

std::tuple<Tensor, Tensor> sample(
    const Tensor& self,
    const Tensor& seed,
    const optional<Tensor>& temperatures,
    const optional<Tensor>& top_ks,
    const optional<Tensor>& top_ps,
    const optional<Tensor>& min_ps,
    double scale,
    int64_t top_k,
    double top_p,
    double min_p,
    c10::SymInt num_samples) {
  const auto results = outputs::sample(
      self, seed, temperatures, top_ks, top_ps, min_ps, scale, top_k, top_p, min_p, num_samples);
  const int64_t dim = self.dim() - 1;
  const Rows rows = Rows::of(self, dim);
  if (rows.count() == 0) return results;
  TORCH_CHECK(rows.length > 0, "sample: expected logits of at least 1 token, got 0");
  const auto row_sizes = self.sizes().slice(0, dim);
  const RowCalls calls{
      {temperatures,     0, row_sizes},
      scale,
      {      top_ks, top_k, row_sizes},
      {      top_ps, top_p, row_sizes},
      {      min_ps, min_p, row_sizes},
      seed.contiguous(),
      rows.count() / seed.numel(),
      std::get<0>(results),
      std::get<1>(results)
  };
  const RowView logits = RowView::of(self, dim);
  with_element_type(
      self.scalar_type(), [&]<typename T>() { draw_all(rows, input_rows<T>(logits), calls); });
  check_drawn(rows, calls);
  return results;
}

}  // namespace
}  // namespace softmax_ext::cpu

SOFTMAX_EXT_LIBRARY_IMPL(CPU, m) { m.impl("_sample", &softmax_ext::cpu::sample); }
