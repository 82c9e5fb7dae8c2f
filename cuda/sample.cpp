#include "csrc/outputs.h"
#include "csrc/registration.h"
#include "cuda/glue.h"
#include "cuda/sampling.h"

namespace softmax_ext::cuda {
namespace {

// `kept` holds the memory until the launch is enqueued.
template <typename T>
RowOption<T> row_option(
    const optional<Tensor>& option, T number, at::IntArrayRef rows, Tensor& kept) {
  if (!option || !option->defined()) return {nullptr, 0, number};
  const bool is_one = option->numel() == 1;
  kept = is_one ? *option : option->expand(rows).contiguous();
  return {kept.const_data_ptr<T>(), is_one ? 0 : 1, number};
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
  RowsCall call(self, dim, self.scalar_type(), self.scalar_type());
  const auto row_sizes = self.sizes().slice(0, dim);
  const Tensor seeds = seed.contiguous();
  Tensor kept[4];
  const SampleProblem problem{
      .rows = rows.count(),
      .length = rows.length,
      .type = call.problem().types.logits,
      .logits = call.logits(self),
      .temperatures = row_option<double>(temperatures, 0, row_sizes, kept[0]),
      .scale = scale,
      .top_k = row_option<int64_t>(top_ks, top_k, row_sizes, kept[1]),
      .top_p = row_option<double>(top_ps, top_p, row_sizes, kept[2]),
      .min_p = row_option<double>(min_ps, min_p, row_sizes, kept[3]),
      .seeds = seeds.const_data_ptr<int64_t>(),
      .rows_per_seed = rows.count() / seeds.numel(),
      .num_samples = num_samples.expect_int(),
      .stream = call.problem().stream};
  call.finish(launch_sample(
      problem,
      std::get<0>(results).mutable_data_ptr<int64_t>(),
      std::get<1>(results).mutable_data_ptr()));
  return results;
}

}  // namespace
}  // namespace softmax_ext::cuda

SOFTMAX_EXT_LIBRARY_IMPL(CUDA, m) { m.impl("_sample", &softmax_ext::cuda::sample); }
