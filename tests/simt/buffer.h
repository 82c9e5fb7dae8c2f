#pragma once
// Memory for kernels under test, with exact bounds: of the host for g++, where the sanitizers and
// the race checker watch it, and of the device for nvcc, so that the same test runs on a GPU.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#if !defined(__CUDACC__)
#include <sys/mman.h>

#include "tests/simt/executor.h"
#endif

namespace softmax_ext::simt {

// Elements have all bits set at first: NaN. Beyond 1 GiB they are 0, and cost memory where they are
// touched. The first is `shift` elements behind an address aligned to 256 bytes.
template <typename T>
class Buffer {
  static_assert(sizeof(T) >= 2, "the race checker knows pairs of bytes");

 public:
  explicit Buffer(std::size_t count, std::size_t shift = 0) : count_(count), shift_(shift) {
    allocate();
  }
  explicit Buffer(const std::vector<T>& values, std::size_t shift = 0)
      : Buffer(values.size(), shift) {
    write(values);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { release(); }

  std::size_t size() const { return count_; }
  T* data() const { return static_cast<T*>(base_) + shift_; }

  void write(const std::vector<T>& values, std::size_t first = 0) {
    copy(data() + first, values.data(), values.size());
  }
  std::vector<T> read() const { return read(0, count_); }
  std::vector<T> read(std::size_t first, std::size_t count) const {
    std::vector<T> values(count);
    copy(values.data(), data() + first, count);
    return values;
  }

#if !defined(__CUDACC__)
  // Bytes that kernels moved, if has_race_checker(): since the last reset, and in the last launch.
  Traffic traffic() const { return counted(false); }
  Traffic traffic_of_last_launch() const { return counted(true); }
  void reset_traffic() { counted(false) = {}; }
#endif

 private:
  std::size_t bytes() const { return (count_ + shift_) * sizeof(T); }

#if defined(__CUDACC__)
  static void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
  }
  void allocate() {
    check(cudaMalloc(&base_, bytes()));
    check(cudaMemset(base_, is_sparse() ? 0 : 0xff, bytes()));
  }
  void release() { cudaFree(base_); }
  static void copy(T* target, const T* source, std::size_t count) {
    check(cudaMemcpy(target, source, count * sizeof(T), cudaMemcpyDefault));
  }
#else
  Traffic& counted(bool of_last_launch) const {
    if (!has_race_checker()) throw std::logic_error("only the race build counts traffic");
    return race::traffic(base_, of_last_launch);
  }
  void allocate() {
    if (is_sparse()) {
      constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
      base_ = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, kFlags, -1, 0);
      if (base_ == MAP_FAILED) throw std::bad_alloc();
    } else {
      if (posix_memalign(&base_, 256, bytes()) != 0) throw std::bad_alloc();
      std::memset(base_, 0xff, bytes());
    }
    if (race::add) race::add(base_, bytes(), shift_ * sizeof(T), nullptr);
  }
  void release() {
    if (race::remove) race::remove(base_);
    if (is_sparse())
      munmap(base_, bytes());
    else
      std::free(base_);
  }
  static void copy(T* target, const T* source, std::size_t count) {
    std::memcpy(static_cast<void*>(target), source, count * sizeof(T));
  }
#endif

  bool is_sparse() const { return bytes() > std::size_t{1} << 30; }

  std::size_t count_;
  std::size_t shift_;
  void* base_ = nullptr;
};

}  // namespace softmax_ext::simt
