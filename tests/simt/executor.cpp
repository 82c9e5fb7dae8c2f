#include "tests/simt/executor.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <ranges>
#include <utility>

#include "tests/simt/fiber.h"

// A launch that failed abandons its fibers: what their stacks own is no leak.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() {
  return "detect_leaks=0";
}

namespace softmax_ext::simt::executor {

struct Thread : Place, Fiber {
  bool is_alive = false;             // has started and not exited
  const Collective* call = nullptr;  // that it waits in
  uint32_t word = 0;                 // that it has taken
};

namespace {

// What ptxas allows a kernel in static shared memory, the only kind that cuda/simt.h has.
constexpr std::size_t kMaxSharedBytes = 48 << 10;

const std::function<void()>* kernel = nullptr;
std::string error;
std::mt19937_64 random;
std::deque<Thread> threads;  // every one ever made: later clusters use them again

// Of the cluster that runs, or ran last.
std::vector<Group> warps;
std::vector<Group> blocks;
Group cluster;
// By the block's rank and the object's key. Each object is a heap block of its own, so that
// AddressSanitizer knows its bounds.
std::map<std::pair<int, const void*>, std::vector<unsigned char>> shared;

Thread& running_thread() { return *static_cast<Thread*>(running); }

std::string describe(const std::source_location& at) {
  const std::string file = at.file_name();
  return "at " + file.substr(file.rfind('/') + 1) + ":" + std::to_string(at.line()) + ":" +
         std::to_string(at.column());
}

std::string describe(const Collective& call) {
  char lanes[32] = "";
  if (call.scope == of_warp) std::snprintf(lanes, sizeof lanes, "of lanes 0x%08x ", call.mask);
  return call.name + std::string(" ") + lanes + describe(call.at);
}

[[noreturn]] void report_deadlock() {
  std::map<std::string, std::vector<const Thread*>> threads_in;
  for (const Thread* thread : cluster.threads)
    if (thread->call) threads_in[describe(*thread->call)].push_back(thread);
  std::string message = "deadlock:";
  for (const auto& [call, waiting] : threads_in)
    message += "\n  " + std::to_string(waiting.size()) + " threads, the first of them " +
               name(*waiting[0]) + ", wait in " + call;
  fail(message);
}

bool is_same(const Collective& a, const Collective& b) {
  return a.mask == b.mask && a.at.line() == b.at.line() && a.at.column() == b.at.column() &&
         std::strcmp(a.at.file_name(), b.at.file_name()) == 0;
}

bool expects(const Collective& call, const Thread& thread) {
  return thread.is_alive && (call.mask >> thread.thread % kWarpLanes & 1) != 0;
}

uint32_t word_for(const Thread& thread) {
  const Collective& call = *thread.call;
  const std::vector<Thread*>& lanes = thread.groups[of_warp]->threads;
  if (call.source_lane < 0) return 0;
  if (call.source_lane >= std::ssize(lanes) || !expects(call, *lanes[call.source_lane]))
    fail(
        name(thread) + " takes the word of lane " + std::to_string(call.source_lane) +
        ", which has exited or is not in the mask, in " + describe(call));
  return lanes[call.source_lane]->call->word;
}

// Lets those go on who wait in `call`, if all whom it expects do.
void meet(Group& group, const Collective& call) {
  if (group.waiting < group.alive && call.mask == ~0u) return;
  auto party = group.threads |
               std::views::filter([&](const Thread* thread) { return expects(call, *thread); });
  for (const Thread* thread : party)
    if (!thread->call || !is_same(*thread->call, call)) return;
  for (Thread* thread : party) thread->word = word_for(*thread);
  for (Thread* thread : party) {
    thread->call = nullptr;
    --group.waiting;
  }
  if (call.orders_memory) group.ordered_at = ++now;
}

// Those who waited only for the running thread go on.
void exit_thread() {
  Thread& thread = running_thread();
  thread.is_alive = false;
  for (Group* group : thread.groups) {
    --group->alive;
    if (group->waiting == 0) continue;
    for (const Thread* other : group->threads)
      if (other->call && other->groups[other->call->scope] == group) meet(*group, *other->call);
  }
  if (thread.groups[of_block]->alive > 0) return;
  if (race::exit_block) race::exit_block();
  for (const auto& [id, bytes] : shared)
    if (id.first == thread.rank) ASAN_POISON_MEMORY_REGION(bytes.data(), bytes.size());
}

// 0 to count − 1, in the order of the options.
std::vector<int64_t> in_order(std::size_t count) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (options.order == Order::reverse) std::ranges::reverse(order);
  if (options.order == Order::random) std::ranges::shuffle(order, random);
  return order;
}

// Returns whether any lane could go on.
bool run_warp(const Group& warp) {
  bool has_run = false;
  for (const int64_t lane : in_order(warp.threads.size())) {
    Thread& thread = *warp.threads[lane];
    if (!thread.is_alive || thread.call) continue;
    has_run = true;
    running = &thread;
    thread.resume();
    running = nullptr;
    if (!error.empty()) throw Error(error);
  }
  return has_run;
}

void start_cluster(int64_t index) {
  for (const auto& [id, bytes] : shared)
    if (race::remove) race::remove(bytes.data());
  shared.clear();
  if (!std::exchange(error, {}).empty()) threads.clear();  // some of them wait for ever
  const int warps_per_block = (shape.threads_per_block + kWarpLanes - 1) / kWarpLanes;
  cluster = {};
  blocks.assign(shape.blocks_per_cluster, {});
  warps.assign(shape.blocks_per_cluster * warps_per_block, {});
  for (int i = 0; i < shape.blocks_per_cluster * shape.threads_per_block; ++i) {
    const int rank = i / shape.threads_per_block;
    const int position = i % shape.threads_per_block;
    Group* const warp = &warps[rank * warps_per_block + position / kWarpLanes];
    if (i == std::ssize(threads)) threads.emplace_back();
    Thread& thread = threads[i];
    thread.is_alive = true;
    thread.block = index * shape.blocks_per_cluster + rank;
    thread.thread = position;
    thread.rank = rank;
    thread.groups = {warp, &blocks[rank], &cluster};
    for (Group* group : thread.groups) {
      group->threads.push_back(&thread);
      ++group->alive;
    }
  }
}

void run_cluster(int64_t index) {
  start_cluster(index);
  while (cluster.alive > 0) {
    bool has_run = false;
    for (const int64_t i : in_order(warps.size()))
      while (run_warp(warps[i])) has_run = true;
    if (!has_run) report_deadlock();
  }
}

auto find_shared(const void* address) {
  return std::ranges::find_if(shared, [&](const auto& object) {
    const unsigned char* const begin = object.second.data();
    return address >= begin && address < begin + object.second.size();
  });
}

}  // namespace

void run_thread() {
  for (;;) {
    (*kernel)();
    exit_thread();
    running_thread().suspend();
  }
}

void run(const Shape& launch_shape, const std::function<void()>& launched) {
  static std::mutex one_launch;
  const std::lock_guard lock(one_launch);
  shape = launch_shape;
  kernel = &launched;
  random.seed(options.seed);
  launched_at = ++now;
  if (race::start_launch) race::start_launch();
  const int64_t clusters = shape.blocks / shape.blocks_per_cluster;
  const int64_t chosen = options.edge > 0 ? std::min(clusters, 2 * options.edge) : clusters;
  for (const int64_t i : in_order(chosen)) run_cluster(i < chosen / 2 ? i : clusters - chosen + i);
}

uint32_t wait_in(const Collective& call) {
  Thread& thread = running_thread();
  Group& group = *thread.groups[call.scope];
  if (!expects(call, thread)) fail(name(thread) + " is not in the mask of its " + describe(call));
  thread.call = &call;
  ++group.waiting;
  meet(group, call);
  if (thread.call) thread.suspend();
  return thread.word;
}

void* shared_object(int rank, const void* key, std::size_t size) {
  const auto [object, is_new] = shared.try_emplace({rank, key}, size, 0xff);
  void* const data = object->second.data();
  if (!is_new) return data;
  if (race::add) race::add(data, size, 0, &blocks[rank]);
  std::size_t total = 0;
  for (const auto& [id, bytes] : shared) total += id.first == rank ? bytes.size() : 0;
  if (total > kMaxSharedBytes)
    fail(
        name(*running) + " has " + std::to_string(total) + " bytes of shared memory, more than " +
        std::to_string(kMaxSharedBytes));
  return data;
}

const void* peer_address(const void* mine, int rank, const std::source_location& at) {
  const auto object = find_shared(mine);
  if (object == shared.end() || object->first.first != running->rank)
    fail("this is no shared memory of the block", at);
  if (rank < 0 || rank >= shape.blocks_per_cluster) fail("there is no peer block of that rank", at);
  if (blocks[rank].alive == 0) fail("the peer block has exited", at);
  const auto& [id, bytes] = *object;
  const auto offset = static_cast<const unsigned char*>(mine) - bytes.data();
  return static_cast<char*>(shared_object(rank, id.second, bytes.size())) + offset;
}

bool is_shared(const void* address) { return find_shared(address) != shared.end(); }
bool is_local(const void* address) { return running_thread().owns(address); }

std::string name(const Place& place) {
  return "thread " + std::to_string(place.thread) + " of block " + std::to_string(place.block);
}

void fail(const std::string& message, const std::source_location& at) {
  fail(name(*running) + ": " + message + ", " + describe(at));
}

void fail(const std::string& message) {
  error = "simt: " + message;
  while (running) running_thread().suspend();
  throw Error(error);
}

}  // namespace softmax_ext::simt::executor
