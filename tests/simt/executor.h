#pragma once
// Runs kernels on the CPU, for tests: a fiber per CUDA thread, which is left only where the thread
// waits for others, in an order that the test chooses. Blocks run one after another, the blocks of
// a cluster together. Reports divergence and deadlock by itself; accesses out of bounds and
// misaligned under AddressSanitizer and UndefinedBehaviorSanitizer; data races with race.cpp.
// Kernels see it as tests/simt/shadow/cuda/simt.h.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>

namespace softmax_ext::simt {

// A mistake in a kernel. It comes out of launch(); the executor can be used again.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Of clusters, of warps, and of the lanes of a warp. In each, a warp runs as far ahead of the
// others as it can.
enum class Order { forward, reverse, random };

struct Options {
  Order order = Order::forward;
  unsigned seed = 1;  // of Order::random
  int64_t edge = 0;   // if not 0, only the first and the last `edge` clusters run

  // What the device says of itself. Its grids are small, so that blocks take several shares of work.
  int device = 0;
  int largest_grid = 6;
  int multiprocessors = 4;
  bool has_clusters = true;
};
inline Options options;

namespace executor {

// What ptxas allows a kernel in static shared memory, the only kind that cuda/simt.h has.
inline constexpr std::size_t kMaxSharedBytes = 48 << 10;

// Runs kernel() on every thread. One launch at a time: others wait.
void run(
    unsigned blocks,
    unsigned threads_per_block,
    unsigned blocks_per_cluster,
    const std::function<void()>& kernel);

struct Place {
  int thread;
  int64_t block;
  int rank;  // of the block in its cluster
  int64_t blocks;
  int blocks_per_cluster;
};
inline Place place;  // of the thread that runs

enum class Scope { warp, block, cluster };

// A call in which a thread waits for the others of its scope, which must wait in the same call.
struct Collective {
  Scope scope;
  bool orders_memory;
  const char* name;
  std::source_location at;
  uint32_t mask = 0xffffffffu;  // of lanes, in Scope::warp
};

// Returns the word of `source_lane`, in Scope::warp and if it is not −1.
uint32_t wait_in(const Collective& call, uint32_t word = 0, int source_lane = -1);

// The block's object of that key, filled with 0xff when the block starts. Each has a heap block of
// its own, so that AddressSanitizer knows its bounds.
void* shared_object(const void* key, std::size_t bytes);
const void* peer_address(const void* mine, int rank, const std::source_location& at);

// For the stand-in of cub::BlockReduce, whose blocks have `threads` threads; `last_use` is this
// thread's word in the storage, with all bits set before the first.
void use_block_storage(int threads, uint32_t* last_use, const std::source_location& at);

// Ends the launch with an error that names the running thread.
[[noreturn]] void fail(const std::string& message, const std::source_location& at);

}  // namespace executor
}  // namespace softmax_ext::simt
