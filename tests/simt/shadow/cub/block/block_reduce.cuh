#pragma once
// A stand-in for cub::BlockReduce, whose header g++ cannot compile. It combines in the same order,
// and is stricter: the result is of 0xff bytes in all threads but the first, a use of the storage
// without a sync_block() since the last is an error, and a use orders no memory.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>

#include "cuda/simt.h"

namespace cub {

namespace simt = softmax_ext::simt;

enum BlockReduceAlgorithm { BLOCK_REDUCE_WARP_REDUCTIONS };

template <typename T, int kThreads, BlockReduceAlgorithm algorithm>
class BlockReduce {
 public:
  struct TempStorage {
    alignas(T) unsigned char values[kThreads * sizeof(T)];
    uint32_t last_use[kThreads];
  };

  explicit BlockReduce(TempStorage& storage) : storage_(storage) {}

  // Of the first `valid` threads.
  template <typename Operation>
  T Reduce(
      T value,
      Operation operation,
      int valid = kThreads,
      const simt::Where& at = simt::Where::current()) {
    const int thread = simt::thread_index();
    use_storage(thread, at);
    simt::require(0 < valid && valid <= kThreads, "BlockReduce: no such number of threads", at);
    reinterpret_cast<T*>(storage_.values)[thread] = value;
    simt::executor::wait_in({simt::executor::of_block, false, "BlockReduce", at});
    if (thread == 0) return combine(operation, valid);
    std::memset(static_cast<void*>(&value), 0xff, sizeof(T));
    return value;
  }

  T Sum(T value, int valid = kThreads, const simt::Where& at = simt::Where::current()) {
    return Reduce(value, std::plus<>{}, valid, at);
  }

 private:
  // Hidden from the race checker, as no kernel has written what it reads first.
  __attribute__((no_sanitize("thread"), noinline)) void use_storage(
      int thread, const simt::Where& at) const {
    namespace executor = simt::executor;
    const bool is_of_all = executor::shape.threads_per_block == kThreads;
    simt::require(is_of_all, "a reduction by another number of threads than the block's", at);
    const auto& groups = executor::running->groups;
    uint32_t& last_use = storage_.last_use[thread];
    const bool is_free = last_use == ~0u || last_use < groups[executor::of_block]->ordered_at ||
                         last_use < groups[executor::of_cluster]->ordered_at;
    simt::require(
        is_free, "a TempStorage is used again without a sync_block() since its last use", at);
    last_use = executor::now;
  }

  // Each warp as a tree, by shuffles down; then the warps, one by one.
  template <typename Operation>
  T combine(Operation operation, int valid) const {
    alignas(T) unsigned char copies[sizeof storage_.values];
    copy_values(copies);
    T* const values = reinterpret_cast<T*>(copies);
    for (int warp = 0; warp < valid; warp += simt::kWarpLanes) {
      const int end = std::min(warp + simt::kWarpLanes, valid);
      for (int offset = 1; offset < simt::kWarpLanes; offset *= 2)
        for (int i = warp; i + offset < end; ++i)
          values[i] = operation(values[i], values[i + offset]);
      if (warp > 0) values[0] = operation(values[0], values[warp]);
    }
    return values[0];
  }

  // Hidden from the race checker, to which the other threads' values are unordered.
  __attribute__((no_sanitize("thread"), noinline)) void copy_values(unsigned char* copies) const {
    std::memcpy(copies, storage_.values, sizeof storage_.values);
  }

  TempStorage& storage_;
};

}  // namespace cub
