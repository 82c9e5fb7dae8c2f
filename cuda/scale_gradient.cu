#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/losses.h"
#include "cuda/problem.cuh"

namespace softmax_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPacksPerThread = 4;

// What is 0 stays it, whatever the factor, as in ignored rows.
template <typename Lane>
__device__ __forceinline__ Lane scaled(Lane element, Lane factor) {
  return element == Lane(0) ? element : element * factor;
}

// Which number is an element's: one for each run of length × inner elements, or of each row in it.
struct NumberOf {
  int64_t run;
  int64_t inner;

  __device__ __forceinline__ int64_t operator()(int64_t element) const {
    return element / run * inner + element % inner;
  }
};

template <typename T, int pack>
__global__ void __launch_bounds__(kThreads) scale_gradient_kernel(
    int64_t count, int64_t numbers, NumberOf number_of, const LaneOf<T>* factors, T* gradient) {
  using Lane = LaneOf<T>;
  if (numbers == 1 && factors[0] == Lane(1)) return;
  const int64_t threads = int64_t{simt::block_count()} * kThreads;
  for (int64_t i = int64_t{simt::block_index()} * kThreads + simt::thread_index(); i * pack < count;
       i += threads) {
    const int64_t first = i * pack;
    const int64_t last = std::min<int64_t>(first + pack, count) - 1;
    const int64_t number = numbers == 1 ? 0 : number_of(first);
    const bool is_one = numbers == 1 || (number_of.inner == 1 && number == number_of(last));
    if (is_one && last + 1 == first + pack) {
      const Lane factor = factors[number];
      if (factor == Lane(1)) continue;
      const auto elements = load_pack<T, pack>(gradient + first);
      store_pack(gradient + first, Pack<T, pack>::from_lanes([&](int j) {
                   return scaled(elements.lane(j), factor);
                 }));
      continue;
    }
    for (int64_t j = first; j <= last; ++j)
      gradient[j] =
          from_lane<T>(scaled(to_lane(gradient[j]), factors[numbers == 1 ? 0 : number_of(j)]));
  }
}

}  // namespace

cudaError_t launch_scale_gradient(
    ElementType type,
    int64_t outer,
    int64_t length,
    int64_t inner,
    const void* factors,
    void* gradient,
    cudaStream_t stream) {
  return with_types<true>({type, type}, [&]<typename T, typename>() {
    const int64_t count = outer * length * inner;
    constexpr int kPack = kVectorElements<T>;
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(gradient) % 16 == 0;
    const int64_t packs = is_aligned ? (count + kPack - 1) / kPack : count;
    const int64_t of_block = int64_t{kThreads} * kPacksPerThread;
    const LaunchExtent extent{
        .blocks = (packs + of_block - 1) / of_block, .threads_per_block = kThreads};
    const auto launch = [&]<int pack>() {
      return launch_blocks<scale_gradient_kernel<T, pack>>(
          extent,
          stream,
          count,
          outer * inner,
          NumberOf{length * inner, inner},
          static_cast<const LaneOf<T>*>(factors),
          static_cast<T*>(gradient));
    };
    return is_aligned ? launch.template operator()<kPack>() : launch.template operator()<1>();
  });
}

}  // namespace softmax_ext::cuda
