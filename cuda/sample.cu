#include "csrc/numerics/philox.h"
#include "cuda/launch.cuh"
#include "cuda/problem.cuh"
#include "cuda/sample_row.cuh"
#include "cuda/sampling.h"

namespace softmax_ext::cuda {
namespace {

constexpr int kThreads = 256;  // not yet measured

template <typename T>
__device__ __forceinline__ T option_of(const RowOption<T>& option, int64_t row) {
  return option.values ? option.values[row * option.stride] : option.number;
}

__device__ __forceinline__ SamplingOptions options_of(const SampleProblem& problem, int64_t row) {
  return {
      problem.temperatures.values ? inverse_temperature(option_of(problem.temperatures, row))
                                  : problem.scale,
      option_of(problem.top_k, row),
      option_of(problem.top_p, row),
      option_of(problem.min_p, row)};
}

// A block per row: the maximum, the threshold of each filter, the sums of what is kept; then a warp
// per draw.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2) sample_kernel(
    const __grid_constant__ SampleProblem problem,
    const __grid_constant__ RowPointers<const T> rows,
    int64_t* indices,
    decltype(to_lane(T{}))* log_probs) {
  using Row = SampledRow<T, kThreads>;
  using Lane = typename Row::Lane;
  constexpr int kWarps = kThreads / simt::kWarpLanes;
  for (int64_t index = simt::block_index(); index < problem.rows; index += simt::block_count()) {
    const SamplingOptions options = options_of(problem, index);
    const Row row(rows[index], problem.length);
    const Lane max = row.maximum();
    const bool is_valid = options.is_valid() && max - max == Lane(0);
    typename Row::Terms terms{max, static_cast<Lane>(options.scale), -kLargest<Lane>};
    const bool is_greedy = terms.scale == kInfinity<Lane>;
    double log_total = 0;
    double total = 0;
    if (is_valid) {  // or not, all threads alike
      if (is_greedy) {
        terms.scale = 1;
        terms.threshold = max;
      } else {
        // At T = ∞ all that is finite has the term 1, however far it is from the maximum.
        if (terms.scale == Lane(0)) terms.base = 0;
        if (options.has_top_k(problem.length))
          terms.threshold = std::max(
              terms.threshold,
              row.template threshold<false>(terms, max, static_cast<double>(options.top_k)));
        if (options.has_top_p())
          terms.threshold =
              row.template threshold<true>(terms, max, needed_mass(options.top_p, row.sum(terms)));
        if (options.has_min_p())
          terms.threshold =
              std::max(terms.threshold, min_p_threshold<Lane>(max, options.scale, options.min_p));
      }
      total = row.sum(terms);
      log_total = ::log(total);
    }
    const auto seed = static_cast<uint64_t>(problem.seeds[index / problem.rows_per_seed]);
    const auto index_of_row = static_cast<uint64_t>(index % problem.rows_per_seed);
    for (int64_t i = simt::thread_index() / simt::kWarpLanes; i < problem.num_samples;
         i += kWarps) {
      int64_t drawn = -1;
      Lane log_prob = kNaN<Lane>;
      if (is_valid) {
        drawn = row.pick(terms, is_greedy ? 0 : uniform_of(seed, index_of_row, i) * total);
        const double distance = static_cast<double>(row[drawn]) - static_cast<double>(max);
        log_prob = is_greedy
                       ? Lane(0)
                       : static_cast<Lane>(distance * static_cast<double>(terms.scale) - log_total);
      }
      if (simt::thread_index() % simt::kWarpLanes == 0) {
        indices[index * problem.num_samples + i] = drawn;
        log_probs[index * problem.num_samples + i] = log_prob;
      }
    }
  }
}

}  // namespace

cudaError_t launch_sample(const SampleProblem& problem, int64_t* indices, void* log_probs) {
  return with_types<true>({problem.type, problem.type}, [&]<typename T, typename>() {
    using Lane = decltype(to_lane(T{}));
    return launch_blocks<sample_kernel<T>>(
        {.blocks = problem.rows, .threads_per_block = kThreads},
        problem.stream,
        problem,
        input_rows<T>(problem.logits),
        indices,
        static_cast<Lane*>(log_probs));
  });
}

}  // namespace softmax_ext::cuda
