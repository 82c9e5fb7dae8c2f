#pragma once
// Times a kernel in many shapes of launch, on rows that no cache holds.

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/problem.cuh"

namespace softmax_ext::cuda::tuning {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// Bytes of each tensor: several times the L2 cache.
inline constexpr int64_t kTensorBytes = int64_t{384} << 20;
inline constexpr int kLaunches = 6;
inline constexpr int kRepeats = 5;

struct Tensors {
  void* inputs[2];
  void* output;
};

template <typename T>
const Tensors& tensors() {
  static const Tensors tensors = [] {
    Tensors made{};
    std::vector<T> values((4 << 20) / sizeof(T));
    unsigned state = 1;
    for (T& value : values) {
      state = state * 1664525u + 1013904223u;
      value = static_cast<T>(static_cast<float>(state >> 8) * 0x1p-22f - 2.f);
    }
    for (void** tensor : {&made.inputs[0], &made.inputs[1], &made.output}) {
      check(cudaMalloc(tensor, kTensorBytes), "cudaMalloc");
      for (int64_t begin = 0; begin < kTensorBytes; begin += int64_t{4} << 20)
        check(
            cudaMemcpy(
                static_cast<char*>(*tensor) + begin,
                values.data(),
                4 << 20,
                cudaMemcpyHostToDevice),
            "cudaMemcpy");
    }
    return made;
  }();
  return tensors;
}

// The median time of a launch, in seconds.
template <typename Launch>
double seconds(Launch launch) {
  static cudaEvent_t begin = nullptr, end = nullptr;
  if (begin == nullptr) {
    check(cudaEventCreate(&begin), "cudaEventCreate");
    check(cudaEventCreate(&end), "cudaEventCreate");
  }
  launch();
  std::vector<float> times(kRepeats);
  for (float& time : times) {
    check(cudaEventRecord(begin), "cudaEventRecord");
    for (int i = 0; i < kLaunches; ++i) launch();
    check(cudaEventRecord(end), "cudaEventRecord");
    check(cudaEventSynchronize(end), "a kernel");
    check(cudaEventElapsedTime(&time, begin, end), "cudaEventElapsedTime");
  }
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return times[kRepeats / 2] / kLaunches / 1e3;
}

template <typename T>
double copy_seconds() {
  static const double of_copy = seconds([] {
    check(
        cudaMemcpyAsync(
            tensors<T>().output, tensors<T>().inputs[0], kTensorBytes, cudaMemcpyDeviceToDevice),
        "cudaMemcpyAsync");
  });
  return of_copy;
}

struct Run {
  const char* pass;
  const char* type;
  int64_t length;
  int64_t rows;
  int64_t bytes;
};

template <typename T>
void report(
    const Run& run,
    const char* mapping,
    int threads,
    int per_row,
    int packs,
    int blocks,
    int waves,
    int resident,
    double time) {
  const double copy_rate = 2.0 * kTensorBytes / copy_seconds<T>();
  std::printf(
      "%s,%s,%ld,%s,%d,%d,%d,%d,%d,%d,%.1f,%.4f\n",
      run.pass,
      run.type,
      long(run.length),
      mapping,
      threads,
      per_row,
      packs,
      blocks,
      waves,
      resident,
      run.bytes / time / 1e9,
      run.bytes / time / copy_rate);
}

// One kernel, with a grid of four waves, and with one as large as there is work.
template <auto kernel, typename Length, typename Task>
void time_kernel(
    const Run& run,
    const char* mapping,
    const Task& task,
    int threads,
    int per_row,
    int packs,
    int rows_per_block,
    int blocks_per_row) {
  int per_multiprocessor = 0, multiprocessors = 0;
  check(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, threads, 0),
      "occupancy");
  check(simt::multiprocessors(0, &multiprocessors), "multiprocessors");
  const int resident = per_multiprocessor * multiprocessors;
  const int64_t needed = (run.rows + rows_per_block - 1) / rows_per_block * blocks_per_row;
  for (const int waves : {4, 0}) {
    int64_t blocks = needed;
    if (waves != 0)
      blocks = std::min<int64_t>(
          needed, std::max(resident / blocks_per_row, 1) * int64_t{blocks_per_row} * waves);
    const simt::LaunchShape shape{
        static_cast<unsigned>(blocks),
        static_cast<unsigned>(threads),
        static_cast<unsigned>(blocks_per_row),
        nullptr};
    const cudaError_t error = simt::launch(kernel, shape, task, run.rows, Length(run.length));
    if (error != cudaSuccess) {
      std::printf(
          "%s,%s,%ld,%s,%d,%d,%d,%d,%d,%d,%s,0\n",
          run.pass,
          run.type,
          long(run.length),
          mapping,
          threads,
          per_row,
          packs,
          blocks_per_row,
          waves,
          resident,
          cudaGetErrorName(error));
      cudaGetLastError();
      return;
    }
    const double time = seconds(
        [&] { check(simt::launch(kernel, shape, task, run.rows, Length(run.length)), "launch"); });
    report<typename Task::In>(
        run, mapping, threads, per_row, packs, blocks_per_row, waves, resident, time);
    if (waves != 0 && blocks == needed) return;
  }
}

template <bool is_aligned, typename Task>
struct Tuner {
  const char* pass;
  const char* type;

  template <typename Make>
  void operator()(const std::vector<int64_t>& lengths, Make body) const {
    for (const int64_t length : lengths) {
      const int64_t row_bytes = length * sizeof(typename Task::In);
      const Run run{
          pass,
          type,
          length,
          kTensorBytes / row_bytes,
          kTensorBytes / row_bytes * row_bytes * (Task::kInputs + Task::kMaps)};
      Task task{};
      task.per_row.scales.scale = 0.7f;
      if constexpr (!Task::kMaps)
        task.per_row.results = static_cast<float*>(tensors<typename Task::In>().output);
      for (int k = 0; k < Task::kInputs; ++k) {
        task.inputs[k].data =
            static_cast<const typename Task::In*>(tensors<typename Task::In>().inputs[k]);
        task.inputs[k].offsets.strides[0] = length;
        task.inputs[k].length_stride = 1;
      }
      task.outputs.data = static_cast<typename Task::Out*>(tensors<typename Task::In>().output);
      task.outputs.offsets.strides[0] = length;
      task.outputs.length_stride = 1;
      body(run, task);
    }
  }

  template <int threads, int per_row, int packs>
  void warp(const std::vector<int64_t>& lengths) const {
    using Shape = LaunchShape<threads, per_row, packs>;
    (*this)(lengths, [&](const Run& run, const Task& task) {
      time_kernel<warp_per_row_kernel<Shape, is_aligned, Task>, int>(
          run, "warp", task, threads, per_row, packs, threads / per_row, 1);
    });
  }
  template <int threads, int packs>
  void block(const std::vector<int64_t>& lengths) const {
    using Shape = LaunchShape<threads, threads, packs>;
    (*this)(lengths, [&](const Run& run, const Task& task) {
      time_kernel<block_per_row_kernel<Shape, is_aligned, Task>, int>(
          run, "block", task, threads, threads, packs, 1, 1);
    });
  }
  template <int threads, int packs>
  void cluster(const std::vector<int64_t>& lengths, int blocks) const {
    using Shape = LaunchShape<threads, threads, packs>;
    (*this)(lengths, [&](const Run& run, const Task& task) {
      const auto time = [&]<bool rereads>() {
        time_kernel<cluster_per_row_kernel<Shape, is_aligned, rereads, Task>, int>(
            run, "cluster", task, threads, threads, packs, 1, blocks);
      };
      if (packs_of_row(run.length, Task::kPackElements) <= int64_t{threads} * packs * blocks)
        time.template operator()<false>();
      else
        time.template operator()<true>();
    });
  }
  template <int threads, int packs>
  void reread(const std::vector<int64_t>& lengths) const {
    using Shape = LaunchShape<threads, threads, packs>;
    (*this)(lengths, [&](const Run& run, const Task& task) {
      time_kernel<reread_row_kernel<Shape, is_aligned, Task>, int64_t>(
          run, "reread", task, threads, threads, packs, 1, 1);
    });
  }
  void slab(const std::vector<int64_t>& lengths) const {
    (*this)(lengths, [&](const Run& run, const Task& task) {
      const double time =
          seconds([&] { check(launch_slab(task, run.rows, run.length, nullptr), "slab"); });
      report<typename Task::In>(run, "slab", kSlabThreads, 1, 0, 1, 0, 0, time);
    });
  }
  // Shapes outer × length × inner.
  void strided(const std::vector<std::array<int64_t, 2>>& shapes) const {
    for (const auto& [length, inner] : shapes) {
      const int64_t outer = kTensorBytes / (length * inner * sizeof(typename Task::In));
      const auto set = [&, length = length, inner = inner](auto& rows, auto* data) {
        rows.data = data;
        rows.offsets.dims = 2;
        rows.offsets.sizes[0] = inner;
        rows.offsets.strides[0] = 1;
        rows.offsets.sizes[1] = outer;
        rows.offsets.strides[1] = length * inner;
        rows.length_stride = inner;
      };
      Task task{};
      task.per_row.scales.scale = 0.7f;
      for (int k = 0; k < Task::kInputs; ++k)
        set(task.inputs[k],
            static_cast<const typename Task::In*>(tensors<typename Task::In>().inputs[k]));
      set(task.outputs, static_cast<typename Task::Out*>(tensors<typename Task::In>().output));
      const double time = seconds([&, length = length, inner = inner] {
        check(launch_strided(task, outer, length, inner, nullptr), "strided");
      });
      const int64_t bytes =
          outer * length * inner * sizeof(typename Task::In) * (Task::kInputs + Task::kMaps);
      report<typename Task::In>(
          {pass, type, length, outer * inner, bytes}, "strided", 0, int(inner), 0, 1, 0, 0, time);
    }
  }
};

template <typename T>
using SoftmaxTask = RowTask<MapWithScale<SoftmaxForward<float, float>>, T, T, 1>;
template <typename T>
using BackwardTask = RowTask<MapWithScale<SoftmaxBackward<float, float>>, T, T, 2>;

struct LogSumExps {
  using Operator = LogSumExpForward<float, float>;
  static constexpr bool kReduces = true;
  static constexpr bool kMaps = false;
  static constexpr bool kMapsTerms = false;
  RowScales<float> scales;
  float* results;
  __device__ __forceinline__ Operator operator_of(int64_t row) const { return {{scales[row]}}; }
  __device__ __forceinline__ void finish(
      int64_t row, const Operator& op, const Operator::Summary& summary) const {
    results[row] = op.result(summary);
  }
};
template <typename T>
using ReduceTask = RowTask<LogSumExps, T, T, 1>;

}  // namespace softmax_ext::cuda::tuning
