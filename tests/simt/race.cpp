// Finds data races, exactly and in any order of threads, and counts traffic. What is compiled with
// -fsanitize=thread calls a hook at each access to memory. This file has the hooks, in place of
// libtsan, and knows CUDA's rule: sync_warp, sync_block and sync_cluster order memory, and an
// exchange between lanes does not.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <new>

#include "tests/simt/executor.h"

extern "C" const char __executable_start;

namespace softmax_ext::simt::race {
namespace {

using namespace executor;

// Of two threads, by the narrowest scope that has both.
enum Distance { same_thread, same_warp, same_block, same_cluster, elsewhere, kDistances };

enum Action : uint16_t { reads, writes, exits };

struct Access {
  uint32_t time;  // 0: none
  uint32_t block;
  uint32_t code;  // offset in the executable
  uint16_t thread;
  Action action;
};

// What is remembered of two bytes, as much as the smallest element has. `reads` since the write:
// the last, and the last before it at each distance that no later read is as far away as. Any
// reads beyond them are older and not farther from any thread than one of these.
struct Cell {
  Access write;
  std::array<Access, kDistances> reads;
};

struct Region {
  const char* base;
  std::size_t bytes;
  std::size_t margin;
  const Group* owner;
  Cell* cells;
  Access peer_read;                // the last by another block than the owner
  std::array<Traffic, 2> traffic;  // of all launches, and of the last
};
std::vector<Region> regions;

Region* find_region(const void* address) {
  for (Region& region : regions)
    if (address >= region.base && address < region.base + region.bytes) return &region;
  return nullptr;
}

std::size_t cell_bytes(std::size_t bytes) { return (bytes + 1) / 2 * sizeof(Cell); }

Access access_now(Action action, const void* code) {
  const auto offset = static_cast<const char*>(code) - &__executable_start;
  return {
      .time = now,
      .block = static_cast<uint32_t>(running->block),
      .code = static_cast<uint32_t>(offset),
      .thread = static_cast<uint16_t>(running->thread),
      .action = action};
}

Distance distance(const Access& a, const Access& b) {
  const auto size = static_cast<uint32_t>(shape.blocks_per_cluster);
  if (a.block / size != b.block / size) return elsewhere;
  if (a.block != b.block) return same_cluster;
  if (a.thread / kWarpLanes != b.thread / kWarpLanes) return same_block;
  return a.thread == b.thread ? same_thread : same_warp;
}

// Whether `before` happened before what the running thread does now, as `access`.
bool is_ordered(const Access& before, const Access& access) {
  const Distance apart = distance(before, access);
  if (apart == same_thread || before.time < launched_at) return true;
  for (int scope = apart - same_warp; scope <= of_cluster; ++scope)
    if (before.time < running->groups[scope]->ordered_at) return true;
  return false;
}

// Which thread does it, and file:line of its code, from within what was inlined outwards.
std::string describe(const Access& access) {
  std::string text = name({.block = access.block, .thread = access.thread});
  if (access.action == exits) return text + " exits";
  text += access.action == reads ? " reads at " : " writes at ";
  char command[128];
  std::snprintf(
      command, sizeof command, "addr2line -i -e /proc/%d/exe %#x", getpid(), access.code - 1);
  FILE* const output = popen(command, "r");
  const char* separator = "";
  for (char line[1024]; output && std::fgets(line, sizeof line, output); separator = " in ") {
    line[std::strcspn(line, " \n")] = '\0';
    const char* const slash = std::strrchr(line, '/');
    text += separator + std::string(slash ? slash + 1 : line);
  }
  if (output) pclose(output);
  return text;
}

std::string place_in(const Region& region, std::size_t at) {
  const auto byte = static_cast<int64_t>(at) - static_cast<int64_t>(region.margin);
  return (region.owner ? "shared memory at byte " : "global memory at byte ") +
         std::to_string(byte);
}

void check_order(const Region& region, std::size_t at, const Access& before, const Access& access) {
  if (before.time == 0 || is_ordered(before, access)) return;
  fail(
      "data race on " + place_in(region, at) + ": " + describe(before) + ", " + describe(access) +
      ", and nothing orders the two");
}

void remember_read(Cell& cell, const Access& access) {
  const Access last = cell.reads[same_thread];
  const Distance apart = last.time == 0 ? same_thread : distance(last, access);
  for (int closer = same_warp; closer < apart; ++closer) cell.reads[closer] = {};
  cell.reads[apart] = last;
  cell.reads[same_thread] = access;
}

void check_cell(const Region& region, std::size_t at, const Access& access) {
  Cell& cell = region.cells[at / 2];
  check_order(region, at, cell.write, access);
  if (access.action == writes) {
    for (const Access& read : cell.reads) check_order(region, at, read, access);
    cell = {.write = access, .reads = {}};
  } else {
    if (region.owner && cell.write.time == 0)
      fail(place_in(region, at) + " is read but was never written: " + describe(access));
    remember_read(cell, access);
  }
}

void check(const void* pointer, std::size_t bytes, Action action, const void* code) {
  if (!running || is_local(pointer)) return;
  Region* const region = find_region(pointer);
  if (!region) return;
  const Access access = access_now(action, code);
  const std::size_t begin = static_cast<const char*>(pointer) - region->base;
  const std::size_t end = begin + bytes;
  if (begin < region->margin || end > region->bytes)
    fail(place_in(*region, begin) + " is out of bounds: " + describe(access));
  if (region->owner && region->owner->alive == 0)
    fail(place_in(*region, begin) + " is of a block that has exited: " + describe(access));
  if (region->owner && region->owner != running->groups[of_block]) region->peer_read = access;
  for (Traffic& traffic : region->traffic)
    (action == reads ? traffic.read : traffic.written) += static_cast<int64_t>(bytes);
  for (std::size_t at = begin; at < end; at += 2) check_cell(*region, at, access);
}

}  // namespace

// Cells cost memory where they are touched.
void add(const void* base, std::size_t bytes, std::size_t margin, const Group* owner) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const cells = mmap(nullptr, cell_bytes(bytes), PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (cells == MAP_FAILED) throw std::bad_alloc();
  const auto first = static_cast<const char*>(base);
  regions.push_back({first, bytes, margin, owner, static_cast<Cell*>(cells), {}, {}});
}

void remove(const void* base) {
  const Region* const region = find_region(base);
  munmap(region->cells, cell_bytes(region->bytes));
  regions.erase(regions.begin() + (region - regions.data()));
}

void start_launch() {
  for (Region& region : regions) region.traffic[true] = {};
}

// No access to the block's shared memory comes after: of its peers' reads, the last counts.
void exit_block() {
  const Access exit = access_now(exits, &__executable_start);
  for (const Region& region : regions)
    if (region.owner == running->groups[of_block]) check_order(region, 0, region.peer_read, exit);
}

Traffic& traffic(const void* base, bool of_last_launch) {
  return find_region(base)->traffic[of_last_launch];
}

}  // namespace softmax_ext::simt::race

using namespace softmax_ext::simt::race;

#define HOOK(name, bytes, action, ...)                     \
  void __tsan_##name(void* p __VA_OPT__(, ) __VA_ARGS__) { \
    check(p, bytes, action, __builtin_return_address(0));  \
  }
#define HOOKS(bytes)                        \
  HOOK(read##bytes, bytes, reads)           \
  HOOK(write##bytes, bytes, writes)         \
  HOOK(unaligned_read##bytes, bytes, reads) \
  HOOK(unaligned_write##bytes, bytes, writes)

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
HOOK(read_range, bytes, reads, std::size_t bytes)
HOOK(write_range, bytes, writes, std::size_t bytes)
// Of code on the host.
uint32_t __tsan_atomic32_fetch_add(uint32_t* p, uint32_t value, int) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_fetch_sub(uint32_t* p, uint32_t value, int) {
  return __atomic_fetch_sub(p, value, __ATOMIC_SEQ_CST);
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
