#pragma once
// Results must not depend on the order in which threads run.

#include <cstdint>
#include <cstring>
#include <vector>

#if !defined(__CUDACC__)
#include "tests/simt/executor.h"
#endif

namespace softmax_ext::simt {

#if defined(__CUDACC__)
// Of the executor. A device is what it is, and takes none.
struct Options {
  int64_t edge;
  int device;
  int largest_grid;
  int multiprocessors;
  bool has_clusters;
};
inline Options options;
#endif

// run() makes its own buffers, launches, and returns a vector. Returns that of the first order;
// throws Error if another order gives other bits. On a device it runs once.
template <typename Run>
auto in_every_order(Run run) {
#if defined(__CUDACC__)
  return run();
#else
  const Options before = options;
  struct Restore {
    const Options& before;
    ~Restore() { options = before; }
  } restore{before};
  options.order = Order::forward;
  const auto expected = run();
  for (const Order order : {Order::reverse, Order::random}) {
    options.order = order;
    const auto values = run();
    if (values.size() != expected.size() ||
        std::memcmp(values.data(), expected.data(), values.size() * sizeof values[0]) != 0)
      throw Error("simt: the result depends on the order of threads");
  }
  return expected;
#endif
}

}  // namespace softmax_ext::simt
