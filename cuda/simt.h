#pragma once
// Thin names over what the kernels use of CUDA: indices, lane exchange, barriers, shared memory,
// clusters, launch. Kernels use nothing else of it (and cub/block), so that the CPU executor of
// tests/simt has a twin of this file only. Blocks, grids and clusters have one dimension.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#undef NDEBUG  // with it, there is no __assert_fail
#include <cassert>

namespace softmax_ext::simt {

inline constexpr int kWarpLanes = 32;

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int64_t block_index() { return blockIdx.x; }
__device__ __forceinline__ int64_t block_count() { return gridDim.x; }

// The word of the lane whose index differs by `offset` (xor). All lanes of the warp take part.
__device__ __forceinline__ uint32_t shuffle_xor(uint32_t word, int offset) {
  return __shfl_xor_sync(0xffffffffu, word, offset);
}

// Orders the memory accesses of the threads that wait in it. A shuffle does not.
__device__ __forceinline__ void sync_warp() { __syncwarp(); }
__device__ __forceinline__ void sync_block() { __syncthreads(); }

// One T per block; `tag` tells two of the same type apart. T needs no constructor, and has no value
// at first.
template <typename T, int tag = 0>
__device__ __forceinline__ T& shared() {
  __shared__ alignas(alignof(T) < 16 ? 16 : alignof(T)) unsigned char storage[sizeof(T)];
  return *reinterpret_cast<T*>(storage);
}

// The blocks of a cluster run at the same time and read each other's shared memory. From sm_90 on;
// has_clusters() says so before a launch.
__device__ __forceinline__ int cluster_rank() {
  unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}
__device__ __forceinline__ int cluster_size() {
  unsigned size = 1;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return static_cast<int>(size);
}
__device__ __forceinline__ void sync_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}
// The peer's copy of an object of shared(), in generic addressing.
template <typename T>
__device__ __forceinline__ const T& peer_shared(const T& mine, int rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t address;
  asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(reinterpret_cast<uint64_t>(&mine)), "r"(rank));
  return *reinterpret_cast<const T*>(address);
#else
  return mine;
#endif
}

// One access of 16 bytes to global memory, which an assignment may be taken apart from.
__device__ __forceinline__ void store_vector(uint4* target, const uint4& vector) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(target),
               "r"(vector.x),
               "r"(vector.y),
               "r"(vector.z),
               "r"(vector.w)
               : "memory");
}

// A value that the compiler knows nothing of any more: not ptxas either, which cannot know that grids
// have one dimension.
__device__ __forceinline__ void make_opaque(uint32_t& word) {
  asm volatile("xor.b32 %0, %0, %1;" : "+r"(word) : "r"(blockIdx.y));
}

// An assertion of the device, whether NDEBUG is set or not.
__device__ __forceinline__ void require(bool condition, const char* message) {
  if (condition) return;
  __assert_fail(message, "softmax_ext", 0, "");
  __builtin_unreachable();  // so no register is saved across the call
}

inline cudaError_t current_device(int* device) { return cudaGetDevice(device); }

// Blocks in a grid at most, with one dimension.
constexpr int64_t largest_grid() { return INT32_MAX; }

inline cudaError_t multiprocessors(int device, int* count) {
  return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
}

// The device may have clusters, and yet run code for an older architecture: the newest that is no
// newer than itself. That code was compiled without them.
inline cudaError_t has_clusters(int device, bool* has) {
  int major = 0;
  int minor = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  int of_code = 0;
  for (const int compiled : {__CUDA_ARCH_LIST__})
    if (compiled <= 100 * major + 10 * minor) of_code = std::max(of_code, compiled);
  *has = of_code >= 900;
  return error;
}

struct LaunchShape {
  unsigned blocks;
  unsigned threads_per_block;
  unsigned blocks_per_cluster;  // divides `blocks`
  cudaStream_t stream;
};

template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), LaunchShape shape, Parameters... arguments) {
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = shape.blocks_per_cluster;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(shape.blocks);
  config.blockDim = dim3(shape.threads_per_block);
  config.stream = shape.stream;
  config.attrs = &cluster;
  config.numAttrs = shape.blocks_per_cluster > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, std::move(arguments)...);
}

}  // namespace softmax_ext::simt
