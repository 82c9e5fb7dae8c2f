#pragma once
// The twin of cuda/simt.h for g++, on the executor. It comes first among the include directories
// of the tests, so that kernels include it in place of the original. A call in which threads wait
// for each other has one more argument, by default the place where it is made.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <source_location>

#include "tests/simt/executor.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
// It would be one object for all blocks, and none of the checks would see it.
#define __shared__ static_assert(false, "shared memory is had by simt::shared<T>() only");

namespace softmax_ext::simt {

using Where = std::source_location;

inline int thread_index() { return executor::running->thread; }
inline int64_t block_index() { return executor::running->block; }
inline int64_t block_count() { return executor::shape.blocks; }

inline uint32_t shuffle_xor(uint32_t word, int offset, const Where& at = Where::current()) {
  const int source_lane = thread_index() % kWarpLanes ^ offset;
  return executor::wait_in({executor::of_warp, false, "shuffle_xor", at, word, source_lane});
}

inline void sync_warp(const Where& at = Where::current()) {
  executor::wait_in({executor::of_warp, true, "sync_warp", at});
}
inline void sync_block(const Where& at = Where::current()) {
  executor::wait_in({executor::of_block, true, "sync_block", at});
}

inline int cluster_rank() { return executor::running->rank; }
inline int cluster_size() { return executor::shape.blocks_per_cluster; }

template <typename T, int tag = 0>
T& shared() {
  static_assert(alignof(T) <= alignof(std::max_align_t), "the executor aligns it to 16 bytes");
  static const char key = 0;
  return *static_cast<T*>(executor::shared_object(cluster_rank(), &key, sizeof(T)));
}

inline void sync_cluster(const Where& at = Where::current()) {
  executor::wait_in({executor::of_cluster, true, "sync_cluster", at});
}
template <typename T>
const T& peer_shared(const T& mine, int rank, const Where& at = Where::current()) {
  return *static_cast<const T*>(executor::peer_address(&mine, rank, at));
}

inline void make_opaque(uint32_t&) {}

inline void require(bool condition, const char* message, const Where& at = Where::current()) {
  if (!condition) executor::fail(message, at);
}

inline void store_vector(uint4* target, const uint4& vector, const Where& at = Where::current()) {
  require(!executor::is_shared(target), "the target of a store_vector is shared memory", at);
  *target = vector;
}

inline cudaError_t current_device(int* device) {
  *device = options.device;
  return cudaSuccess;
}

inline int64_t largest_grid() { return options.largest_grid; }

inline cudaError_t multiprocessors(int device, int* count) {
  *count = options.multiprocessors;
  return cudaSuccess;
}

inline cudaError_t has_clusters(int device, bool* has) {
  *has = options.has_clusters;
  return cudaSuccess;
}

struct LaunchShape {
  unsigned blocks;
  unsigned threads_per_block;
  unsigned blocks_per_cluster;
  cudaStream_t stream;
};

// What a device refuses, it refuses with the device's error.
inline cudaError_t check_shape(const LaunchShape& shape) {
  constexpr unsigned kMaxBlocks = 0x7fffffff;
  constexpr unsigned kMaxThreads = 1024;
  constexpr unsigned kMaxClusterBlocks = 8;
  if (shape.blocks < 1 || shape.blocks > kMaxBlocks || shape.threads_per_block < 1 ||
      shape.threads_per_block > kMaxThreads)
    return cudaErrorInvalidConfiguration;
  if (shape.blocks_per_cluster < 1 || shape.blocks_per_cluster > kMaxClusterBlocks ||
      shape.blocks % shape.blocks_per_cluster != 0 ||
      (shape.blocks_per_cluster > 1 && !options.has_clusters))
    return cudaErrorInvalidClusterSize;
  return cudaSuccess;
}

// Returns when the kernel has ended. Throws Error.
template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), LaunchShape shape, Parameters... arguments) {
  const cudaError_t error = check_shape(shape);
  if (error != cudaSuccess) return error;
  const auto [blocks, threads_per_block, blocks_per_cluster, stream] = shape;
  executor::run(
      {blocks, static_cast<int>(threads_per_block), static_cast<int>(blocks_per_cluster)},
      [&] { kernel(arguments...); });
  return cudaSuccess;
}

}  // namespace softmax_ext::simt
