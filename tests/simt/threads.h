#pragma once
// The state of a launch, which executor.cpp and collectives.cpp change and race.cpp reads.

#include <array>
#include <deque>
#include <random>
#include <vector>

#include "tests/simt/executor.h"
#include "tests/simt/fiber.h"

namespace softmax_ext::simt::executor {

// Time is a count of what orders memory: what happened before `released_at` is ordered before what
// the members do after it.
struct Barrier {
  int members = 0;  // threads that have not exited
  int arrived = 0;
  uint32_t released_at = 0;
};

struct Thread {
  Fiber fiber;
  struct Block* block = nullptr;
  struct Warp* warp = nullptr;
  int index = 0;  // in the block
  int lane = 0;
  bool is_alive = false;    // has started and not exited
  bool is_waiting = false;  // in `call`
  Collective call = {};
  uint32_t word = 0;  // given to the call, and taken from it
  int source_lane = -1;

  uint32_t bit() const { return uint32_t{1} << lane; }
};

struct Warp {
  std::array<Thread*, 32> lanes = {};
  uint32_t ready = 0;
  uint32_t waiting = 0;           // in a call of Scope::warp
  uint32_t exited = 0xffffffffu;  // or never there
  uint32_t released_at = 0;
};

struct SharedObject {
  const void* key;
  char* data;
  std::size_t bytes;
};

struct Block {
  int64_t index = 0;
  int rank = 0;
  std::vector<Thread*> threads;
  std::vector<Warp> warps;
  std::vector<SharedObject> shared;
  Barrier barrier;
};

struct State {
  std::deque<Thread> threads;  // every one ever made: later blocks use them again
  Thread* running = nullptr;
  std::string error;
  std::mt19937_64 random;
  const std::function<void()>* kernel = nullptr;
  std::vector<Block> cluster;
  Barrier cluster_barrier;
  uint32_t now = 0;
  uint32_t launched_at = 0;
  uint32_t cluster_started_at = 0;
};
extern State state;

// Those who waited only for the running thread go on.
void exit_thread();
[[noreturn]] void report_deadlock();
void allow_shared_access(const Block& block, bool is_allowed);

std::string name(int64_t thread, int64_t block);
// Ends the launch with an error. The running thread, if any, is never resumed.
[[noreturn]] void fail(const std::string& message);

}  // namespace softmax_ext::simt::executor
