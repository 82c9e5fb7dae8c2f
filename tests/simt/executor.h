#pragma once
// Runs kernels on the CPU, for tests: a fiber per CUDA thread, which is left only where the thread
// waits for others, in an order that the test chooses. Blocks run one after another, the blocks of
// a cluster together. Reports divergence and deadlock by itself; accesses out of bounds and
// misaligned under AddressSanitizer and UndefinedBehaviorSanitizer; data races with race.cpp.
// Kernels see it as tests/simt/shadow/cuda/simt.h.

#include <array>
#include <cstdint>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

namespace softmax_ext::simt {

inline constexpr int kWarpLanes = 32;

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

struct Shape {
  int64_t blocks;
  int threads_per_block;
  int blocks_per_cluster;
};
inline Shape shape;  // of the launch

// Runs kernel() on every thread. One launch at a time: others wait.
void run(const Shape& shape, const std::function<void()>& kernel);

enum Scope { of_warp, of_block, of_cluster };

// Time is a count of what orders memory.
inline uint32_t now = 0;
inline uint32_t launched_at = 0;

// Threads that wait for each other.
struct Group {
  std::vector<struct Thread*> threads;
  int alive = 0;
  int waiting = 0;          // in a call of the group's scope
  uint32_t ordered_at = 0;  // what happened before is ordered before what its threads do now
};

struct Place {
  int64_t block = 0;
  int thread = 0;
  int rank = 0;                       // of the block in its cluster
  std::array<Group*, 3> groups = {};  // by Scope
};
inline Place* running = nullptr;  // null where no kernel runs

// A call in which a thread waits for the others of its scope, which must wait in the same call.
struct Collective {
  Scope scope;
  bool orders_memory;
  const char* name;
  std::source_location at;
  uint32_t word = 0;     // that the thread gives
  int source_lane = -1;  // whose word it takes, in of_warp; −1: nobody's
  uint32_t mask = ~0u;   // of lanes, in of_warp
};
uint32_t wait_in(const Collective& call);  // returns the word that the thread takes

// The object of that key in the block of that rank, of bytes 0xff when the block starts.
void* shared_object(int rank, const void* key, std::size_t bytes);
const void* peer_address(const void* mine, int rank, const std::source_location& at);
bool is_shared(const void* address);  // of any block of the cluster
bool is_local(const void* address);   // of the running thread

std::string name(const Place& place);

// Ends the launch with an error, of the running thread where a place is given.
[[noreturn]] void fail(const std::string& message);
[[noreturn]] void fail(const std::string& message, const std::source_location& at);

}  // namespace executor

// Bytes that kernels moved.
struct Traffic {
  int64_t read = 0;
  int64_t written = 0;
};

// In race.cpp, and null where that is not linked.
namespace race {

// Accesses to [base, base + bytes) are checked; those to the first `margin` bytes are errors.
// `owner` is the block whose shared memory it is.
[[gnu::weak]] void add(
    const void* base, std::size_t bytes, std::size_t margin, const executor::Group* owner);
[[gnu::weak]] void remove(const void* base);
[[gnu::weak]] void start_launch();
[[gnu::weak]] void exit_block();  // which the running thread is the last of
[[gnu::weak]] Traffic& traffic(const void* base, bool of_last_launch);

}  // namespace race

inline bool has_race_checker() { return race::add != nullptr; }

}  // namespace softmax_ext::simt
