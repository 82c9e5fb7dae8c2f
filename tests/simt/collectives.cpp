// What a thread asks of the executor while it runs.

#include <sanitizer/asan_interface.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <utility>

#include "tests/simt/memory_observer.h"
#include "tests/simt/threads.h"

namespace softmax_ext::simt::executor {
namespace {

std::string name(const Thread& thread) { return executor::name(thread.index, thread.block->index); }

std::string describe(const std::source_location& at) {
  const char* const slash = std::strrchr(at.file_name(), '/');
  return std::string(slash ? slash + 1 : at.file_name()) + ":" + std::to_string(at.line());
}

std::string describe(const Collective& call) {
  char mask[32] = "";
  if (call.scope == Scope::warp) std::snprintf(mask, sizeof mask, " of lanes 0x%08x", call.mask);
  return std::string(call.name) + mask + " at " + describe(call.at);
}

void check_same_call(const Thread& thread, const Thread& other) {
  const Collective& a = thread.call;
  const Collective& b = other.call;
  if (a.mask == b.mask && a.at.line() == b.at.line() && a.at.column() == b.at.column() &&
      std::strcmp(a.at.file_name(), b.at.file_name()) == 0)
    return;
  fail(
      "divergence: " + name(thread) + " waits in " + describe(a) + ", " + name(other) + " in " +
      describe(b));
}

template <typename Visit>
void visit_lanes(const Warp& warp, uint32_t lanes, Visit visit) {
  for (; lanes != 0; lanes &= lanes - 1) visit(*warp.lanes[std::countr_zero(lanes)]);
}

void wake(Thread& thread) {
  thread.is_waiting = false;
  thread.warp->ready |= thread.bit();
}

// Lets the lanes of `mask` go on if all of them that have not exited wait.
void release_warp(Warp& warp, uint32_t mask) {
  const uint32_t lanes = mask & ~warp.exited;
  if (lanes == 0 || (warp.waiting & lanes) != lanes) return;
  const Thread& first = *warp.lanes[std::countr_zero(lanes)];
  std::array<uint32_t, 32> words = {};
  visit_lanes(warp, lanes, [&](Thread& thread) {
    check_same_call(first, thread);
    words[thread.lane] = thread.word;
  });
  visit_lanes(warp, lanes, [&](Thread& thread) {
    const int source = thread.source_lane;
    if (source >= 0 && (source > 31 || (lanes >> source & 1) == 0))
      fail(
          name(thread) + " takes the word of lane " + std::to_string(source) +
          ", which has exited or is not in the mask, in " + describe(thread.call));
    if (source >= 0) thread.word = words[source];
    wake(thread);
  });
  warp.waiting &= ~lanes;
  if (first.call.orders_memory) warp.released_at = ++state.now;
}

bool is_complete(const Barrier& barrier) {
  return barrier.arrived > 0 && barrier.arrived == barrier.members;
}

// Returns whether the call that the threads of the block wait in orders memory.
bool wake_all(Block& block) {
  const Thread* first = nullptr;
  for (Thread* thread : block.threads) {
    if (!thread->is_waiting) continue;
    if (!first) first = thread;
    check_same_call(*first, *thread);
  }
  for (Thread* thread : block.threads)
    if (thread->is_waiting) wake(*thread);
  return first && first->call.orders_memory;
}

void release_block(Block& block) {
  if (!is_complete(block.barrier)) return;
  block.barrier.arrived = 0;
  if (wake_all(block)) block.barrier.released_at = ++state.now;
}

void release_cluster() {
  if (!is_complete(state.cluster_barrier)) return;
  state.cluster_barrier = {state.cluster_barrier.members, 0, ++state.now};
  for (Block& block : state.cluster) wake_all(block);
}

void* shared_object(Block& block, const void* key, std::size_t bytes) {
  std::size_t total = bytes;
  for (const SharedObject& object : block.shared) {
    if (object.key == key) return object.data;
    total += object.bytes;
  }
  if (total > kMaxSharedBytes)
    fail(
        name(*state.running) + " has " + std::to_string(total) +
        " bytes of shared memory, more than " + std::to_string(kMaxSharedBytes));
  void* data = nullptr;
  if (posix_memalign(&data, 128, bytes) != 0) throw std::bad_alloc();
  std::memset(data, 0xff, bytes);
  block.shared.push_back({key, static_cast<char*>(data), bytes});
  if (memory_observer) memory_observer->add_shared(data, bytes, block.rank);
  return data;
}

}  // namespace

uint32_t wait_in(const Collective& call, uint32_t word, int source_lane) {
  Thread& thread = *state.running;
  thread.call = call;
  thread.word = word;
  thread.source_lane = source_lane;
  thread.is_waiting = true;
  thread.warp->ready &= ~thread.bit();
  if (call.scope == Scope::warp) {
    if ((call.mask & thread.bit()) == 0)
      fail(name(thread) + " is not in the mask of its " + describe(call));
    thread.warp->waiting |= thread.bit();
    release_warp(*thread.warp, call.mask);
  } else if (call.scope == Scope::block) {
    ++thread.block->barrier.arrived;
    release_block(*thread.block);
  } else {
    ++state.cluster_barrier.arrived;
    release_cluster();
  }
  while (thread.is_waiting) thread.fiber.suspend();
  return thread.word;
}

void exit_thread() {
  Thread& thread = *state.running;
  Block& block = *thread.block;
  Warp& warp = *thread.warp;
  --block.barrier.members;
  --state.cluster_barrier.members;
  warp.exited |= thread.bit();
  warp.ready &= ~thread.bit();
  visit_lanes(warp, warp.waiting, [&](Thread& other) {
    if (other.is_waiting) release_warp(warp, other.call.mask);
  });
  release_block(block);
  release_cluster();
  if (block.barrier.members == 0) {
    allow_shared_access(block, false);
    if (memory_observer) memory_observer->exit_block(block.rank);
  }
  thread.is_alive = false;  // not before: what fails above leaves a fiber that must start anew
  thread.fiber.suspend();
}

void report_deadlock() {
  std::map<std::string, std::pair<int, std::string>> places;
  for (const Block& block : state.cluster)
    for (const Thread* thread : block.threads) {
      if (!thread->is_alive) continue;
      auto& [count, first] = places[describe(thread->call)];
      if (count++ == 0) first = name(*thread);
    }
  std::string message = "deadlock:";
  for (const auto& [call, threads] : places)
    message += "\n  " + std::to_string(threads.first) + " threads, the first of them " +
               threads.second + ", wait in " + call;
  fail(message);
}

void allow_shared_access(const Block& block, bool is_allowed) {
  for (const SharedObject& object : block.shared)
    if (is_allowed)
      ASAN_UNPOISON_MEMORY_REGION(object.data, object.bytes);
    else
      ASAN_POISON_MEMORY_REGION(object.data, object.bytes);
}

void* shared_object(const void* key, std::size_t bytes) {
  return shared_object(*state.running->block, key, bytes);
}

const void* peer_address(const void* mine, int rank, const std::source_location& at) {
  const char* const address = static_cast<const char*>(mine);
  if (rank < 0 || rank >= place.blocks_per_cluster) fail("there is no peer block of that rank", at);
  Block& peer = state.cluster[rank];
  if (peer.barrier.members == 0) fail("the peer block has exited", at);
  for (const SharedObject& object : state.running->block->shared)
    if (address >= object.data && address < object.data + object.bytes)
      return static_cast<char*>(shared_object(peer, object.key, object.bytes)) +
             (address - object.data);
  fail("this is no shared memory of the block", at);
}

void use_block_storage(int threads, uint32_t* last_use, const std::source_location& at) {
  const Block& block = *state.running->block;
  if (static_cast<int>(block.threads.size()) != threads)
    fail("a reduction by another number of threads than the block's", at);
  if (*last_use != 0xffffffffu && *last_use >= block.barrier.released_at &&
      *last_use >= state.cluster_barrier.released_at)
    fail("a TempStorage is used again without a sync_block() since its last use", at);
  *last_use = state.now;
}

std::string name(int64_t thread, int64_t block) {
  return "thread " + std::to_string(thread) + " of block " + std::to_string(block);
}

void fail(const std::string& message, const std::source_location& at) {
  fail(name(*state.running) + ": " + message + ", at " + describe(at));
}

void fail(const std::string& message) {
  if (!state.running) throw Error("simt: " + message);
  state.error = "simt: " + message;
  for (;;) state.running->fiber.suspend();
}

}  // namespace softmax_ext::simt::executor
