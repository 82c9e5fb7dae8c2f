#include "tests/simt/executor.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <utility>

#include "tests/simt/memory_observer.h"
#include "tests/simt/threads.h"

// A launch that failed abandons its fibers: what their stacks own is no leak.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() {
  return "detect_leaks=0";
}

namespace softmax_ext::simt::executor {

State state;

namespace {

int64_t random_below(int64_t count) {
  return static_cast<int64_t>(state.random() % static_cast<uint64_t>(count));
}

// Calls visit(i) once for each i < count, in the order of the options.
template <typename Visit>
void visit_in_order(int64_t count, Visit visit) {
  int64_t first = 0;
  int64_t stride = 1;
  if (options.order == Order::reverse) first = stride = count - 1;
  if (options.order == Order::random) {
    first = random_below(count);
    do {
      stride = 1 + random_below(count);
    } while (std::gcd(stride, count) != 1);
  }
  for (int64_t visited = 0, i = first; visited < count; ++visited, i = (i + stride) % count)
    visit(i);
}

int choose_lane(uint32_t ready) {
  if (options.order == Order::reverse) return 31 - std::countl_zero(ready);
  if (options.order == Order::random)
    for (int64_t skip = random_below(std::popcount(ready)); skip > 0; --skip) ready &= ready - 1;
  return std::countr_zero(ready);
}

void resume(Thread& thread) {
  state.running = &thread;
  place.thread = thread.index;
  place.block = thread.block->index;
  place.rank = thread.block->rank;
  thread.fiber.resume();
  state.running = nullptr;
  if (!state.error.empty()) throw Error(std::exchange(state.error, {}));
}

void run_kernels() {
  for (;;) {
    (*state.kernel)();
    exit_thread();
  }
}

void start_block(Block& block, int64_t index, unsigned threads) {
  block.index = index;
  block.threads.clear();
  block.warps.assign((threads + 31) / 32, Warp{});
  block.barrier = {.members = static_cast<int>(threads)};
  allow_shared_access(block, true);
  for (const SharedObject& object : block.shared) std::memset(object.data, 0xff, object.bytes);
  for (unsigned i = 0; i < threads; ++i) {
    const std::size_t position = static_cast<std::size_t>(block.rank) * threads + i;
    if (state.threads.size() <= position) state.threads.emplace_back().fiber.start(run_kernels);
    Thread& thread = state.threads[position];
    Warp& warp = block.warps[i / 32];
    thread.block = &block;
    thread.warp = &warp;
    thread.index = static_cast<int>(i);
    thread.lane = static_cast<int>(i % 32);
    thread.is_alive = true;
    thread.is_waiting = false;
    warp.lanes[thread.lane] = &thread;
    warp.ready |= thread.bit();
    warp.exited &= ~thread.bit();
    block.threads.push_back(&thread);
  }
}

void run_cluster(int64_t index, unsigned threads_per_block) {
  std::vector<Warp*> warps;
  state.cluster_barrier = {};
  state.cluster_started_at = ++state.now;
  for (Block& block : state.cluster) {
    start_block(block, index * place.blocks_per_cluster + block.rank, threads_per_block);
    state.cluster_barrier.members += block.barrier.members;
    for (Warp& warp : block.warps) warps.push_back(&warp);
  }
  while (state.cluster_barrier.members > 0) {
    bool is_stuck = true;
    visit_in_order(static_cast<int64_t>(warps.size()), [&](int64_t i) {
      for (Warp& warp = *warps[i]; warp.ready != 0; is_stuck = false)
        resume(*warp.lanes[choose_lane(warp.ready)]);
    });
    if (is_stuck) report_deadlock();
  }
}

// Leaves nothing of a launch behind, however it ended.
struct Cleanup {
  ~Cleanup() {
    for (Block& block : state.cluster) {
      allow_shared_access(block, true);
      for (const SharedObject& object : block.shared) {
        if (memory_observer) memory_observer->remove(object.data);
        std::free(object.data);
      }
    }
    state.cluster.clear();
    state.running = nullptr;
    for (Thread& thread : state.threads)
      if (std::exchange(thread.is_alive, false)) thread.fiber.start(run_kernels);
  }
};

}  // namespace

void run(
    unsigned blocks,
    unsigned threads_per_block,
    unsigned blocks_per_cluster,
    const std::function<void()>& kernel) {
  static std::mutex one_launch;
  const std::lock_guard lock(one_launch);
  const Cleanup cleanup;
  place.blocks = blocks;
  place.blocks_per_cluster = static_cast<int>(blocks_per_cluster);
  state.kernel = &kernel;
  state.random.seed(options.seed);
  state.launched_at = ++state.now;
  state.cluster.resize(blocks_per_cluster);
  for (int rank = 0; rank < place.blocks_per_cluster; ++rank) state.cluster[rank].rank = rank;
  if (memory_observer) memory_observer->start_launch();
  const int64_t clusters = blocks / blocks_per_cluster;
  const int64_t chosen = options.edge > 0 ? std::min(clusters, 2 * options.edge) : clusters;
  visit_in_order(chosen, [&](int64_t i) {
    run_cluster(i < chosen / 2 ? i : clusters - chosen + i, threads_per_block);
  });
}

}  // namespace softmax_ext::simt::executor
