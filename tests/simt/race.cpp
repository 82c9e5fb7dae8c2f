// Finds data races, exactly and in any order of threads, and counts traffic. What is compiled with
// -fsanitize=thread calls a hook at each access to memory. This file has the hooks, in place of
// libtsan, and knows CUDA's rule: sync_warp, sync_block and sync_cluster order memory, and an
// exchange between lanes does not.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "tests/simt/memory_observer.h"
#include "tests/simt/threads.h"

extern "C" const char __executable_start;

namespace softmax_ext::simt::executor {
namespace {

// Of two threads, by the narrowest barrier that has both.
enum Distance { same_thread, same_warp, same_block, same_cluster, elsewhere, kDistances };

struct Access {
  uint32_t time;  // 0: none
  uint32_t block;
  uint32_t thread;
  uint32_t code;  // offset in the executable
};

// What is remembered of two bytes, as much as the smallest element has. `reads` since the write:
// the last, and the last before it at each distance that no later read is as far away as. Any
// reads beyond them are older and not farther from any thread than one of these.
struct Cell {
  Access write;
  std::array<Access, kDistances> reads;
};

struct Region {
  uintptr_t base;
  std::size_t bytes;
  std::size_t margin;
  int rank;  // of the block whose shared memory it is, or −1
  Cell* cells;
  Traffic traffic;
  Traffic traffic_of_last_launch;
};
std::vector<Region> regions;

int64_t cluster_of(const Access& access) { return access.block / state.cluster.size(); }

Distance distance(const Access& a, const Access& b) {
  if (cluster_of(a) != cluster_of(b)) return elsewhere;
  if (a.block != b.block) return same_cluster;
  if (a.thread / 32 != b.thread / 32) return same_block;
  return a.thread == b.thread ? same_thread : same_warp;
}

// Whether `before` happened before what the running thread does now, as `access`.
bool is_ordered(const Access& before, const Access& access) {
  const Distance apart = distance(before, access);
  const Thread& thread = *state.running;
  uint32_t ordered = state.launched_at;
  if (apart <= same_cluster) ordered = std::max(ordered, state.cluster_barrier.released_at);
  if (apart <= same_block) ordered = std::max(ordered, thread.block->barrier.released_at);
  if (apart <= same_warp) ordered = std::max(ordered, thread.warp->released_at);
  return before.time < ordered || apart == same_thread;
}

// file:line of the code, from within what was inlined outwards.
std::string lines_of(const Access& access) {
  char command[128];
  std::snprintf(
      command, sizeof command, "addr2line -i -e /proc/%d/exe %#x", getpid(), access.code - 1);
  std::string lines;
  if (FILE* const output = popen(command, "r")) {
    for (char line[1024]; std::fgets(line, sizeof line, output);) {
      line[std::strcspn(line, " \n")] = '\0';
      const char* const slash = std::strrchr(line, '/');
      lines += (lines.empty() ? "" : " in ") + std::string(slash ? slash + 1 : line);
    }
    pclose(output);
  }
  return lines;
}

std::string describe(const Access& access, const char* action) {
  return name(access.thread, access.block) + action + lines_of(access);
}

std::string place_in(const Region& region, std::size_t at) {
  const char* const kind = region.rank < 0 ? "global" : "shared";
  return std::string(kind) + " memory at byte " +
         std::to_string(static_cast<int64_t>(at) - static_cast<int64_t>(region.margin));
}

constexpr const char* kActions[] = {" reads at ", " writes at "};

void check_order(
    const Region& region,
    std::size_t at,
    const Access& before,
    bool was_write,
    const Access& access,
    bool is_write) {
  if (before.time == 0 || is_ordered(before, access)) return;
  fail(
      "data race on " + place_in(region, at) + ": " + describe(before, kActions[was_write]) + ", " +
      describe(access, kActions[is_write]) + ", and nothing orders the two");
}

void remember_read(Cell& cell, const Access& access) {
  const Access last = cell.reads[same_thread];
  const Distance apart = last.time == 0 ? same_thread : distance(last, access);
  for (int closer = same_warp; closer < apart; ++closer) cell.reads[closer] = {};
  cell.reads[apart] = last;
  cell.reads[same_thread] = access;
}

void check_cell(const Region& region, std::size_t at, const Access& access, bool is_write) {
  Cell& cell = region.cells[at / 2];
  if (region.rank >= 0 && cell.write.time < state.cluster_started_at) {
    cell = {};  // of an earlier block
    if (!is_write)
      fail(
          place_in(region, at) +
          " is read but was never written: " + describe(access, kActions[is_write]));
  }
  check_order(region, at, cell.write, true, access, is_write);
  if (!is_write) return remember_read(cell, access);
  for (const Access& read : cell.reads) check_order(region, at, read, false, access, is_write);
  cell = {.write = access, .reads = {}};
}

Region* find_region(uintptr_t address) {
  for (Region& region : regions)
    if (address - region.base < region.bytes) return &region;
  return nullptr;
}

void access_memory(const void* pointer, std::size_t bytes, bool is_write, const void* code) {
  if (!state.running || state.running->fiber.owns(pointer)) return;
  Region* const region = find_region(reinterpret_cast<uintptr_t>(pointer));
  if (!region) return;
  const Access access{
      .time = state.now,
      .block = static_cast<uint32_t>(place.block),
      .thread = static_cast<uint32_t>(place.thread),
      .code = static_cast<uint32_t>(static_cast<const char*>(code) - &__executable_start)};
  const std::size_t begin = reinterpret_cast<uintptr_t>(pointer) - region->base;
  if (begin < region->margin || begin + bytes > region->bytes)
    fail(place_in(*region, begin) + " is out of bounds: " + describe(access, kActions[is_write]));
  if (region->rank >= 0 && state.cluster[region->rank].barrier.members == 0)
    fail("the peer block has exited: " + describe(access, kActions[is_write]));
  for (Traffic* traffic : {&region->traffic, &region->traffic_of_last_launch})
    (is_write ? traffic->written : traffic->read) += static_cast<int64_t>(bytes);
  for (std::size_t at = begin; at < begin + bytes; at += 2)
    check_cell(*region, at, access, is_write);
}

std::size_t cell_bytes(std::size_t bytes) { return (bytes + 1) / 2 * sizeof(Cell); }

// Cells cost memory where they are touched.
void add(const void* base, std::size_t bytes, std::size_t margin, int rank) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const cells = mmap(nullptr, cell_bytes(bytes), PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (cells == MAP_FAILED) throw std::bad_alloc();
  regions.push_back(
      {reinterpret_cast<uintptr_t>(base), bytes, margin, rank, static_cast<Cell*>(cells), {}, {}});
}

Region& region_of(const void* base) {
  Region* const region = find_region(reinterpret_cast<uintptr_t>(base));
  if (!region) throw Error("simt: no memory that is checked");
  return *region;
}

void remove(const void* base) {
  const Region& region = region_of(base);
  munmap(region.cells, cell_bytes(region.bytes));
  regions.erase(regions.begin() + (&region - regions.data()));
}

void start_launch() {
  for (Region& region : regions) region.traffic_of_last_launch = {};
}

// The end of a block is as a write to its shared memory: its peers' reads must be ordered before.
void exit_block(int rank) {
  const Access exit{
      .time = state.now,
      .block = static_cast<uint32_t>(place.block),
      .thread = static_cast<uint32_t>(place.thread),
      .code = 0};
  for (const Region& region : regions) {
    if (region.rank != rank) continue;
    for (std::size_t i = 0; i < (region.bytes + 1) / 2; ++i)
      for (const Access& read : region.cells[i].reads)
        if (read.time >= state.cluster_started_at && distance(read, exit) == same_cluster &&
            !is_ordered(read, exit))
          fail(
              describe(read, kActions[false]) + " from shared memory of block " +
              std::to_string(place.block) + ", which exits, and nothing orders the two");
  }
}

const MemoryObserver kObserver = {
    .add_global = [](const void* base,
                     std::size_t bytes,
                     std::size_t margin) { add(base, bytes, margin, -1); },
    .add_shared = [](const void* base, std::size_t bytes, int rank) { add(base, bytes, 0, rank); },
    .remove = remove,
    .start_launch = start_launch,
    .exit_block = exit_block,
    .traffic = [](const void* base) -> Traffic& { return region_of(base).traffic; },
    .traffic_of_last_launch = [](const void* base) -> Traffic& {
      return region_of(base).traffic_of_last_launch;
    }};
const bool is_registered = (memory_observer = &kObserver, true);

}  // namespace
}  // namespace softmax_ext::simt::executor

using softmax_ext::simt::executor::access_memory;

#define HOOK(name, bytes, is_write) \
  void __tsan_##name(void* p) { access_memory(p, bytes, is_write, __builtin_return_address(0)); }
#define HOOKS(n)                    \
  HOOK(read##n, n, false)           \
  HOOK(write##n, n, true)           \
  HOOK(unaligned_read##n, n, false) \
  HOOK(unaligned_write##n, n, true)
#define ATOMICS(bits, T)                                                                         \
  T __tsan_atomic##bits##_load(const T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
  void __tsan_atomic##bits##_store(T* p, T value, int) {                                         \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                \
  }                                                                                              \
  T __tsan_atomic##bits##_exchange(T* p, T value, int) {                                         \
    return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                                      \
  }                                                                                              \
  T __tsan_atomic##bits##_fetch_add(T* p, T value, int) {                                        \
    return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);                                       \
  }                                                                                              \
  T __tsan_atomic##bits##_fetch_sub(T* p, T value, int) {                                        \
    return __atomic_fetch_sub(p, value, __ATOMIC_SEQ_CST);                                       \
  }

extern "C" {
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16) void __tsan_read_range(void* p, std::size_t bytes) {
  access_memory(p, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, std::size_t bytes) {
  access_memory(p, bytes, true, __builtin_return_address(0));
}
// Of code on the host.
ATOMICS(8, uint8_t)
ATOMICS(32, uint32_t) ATOMICS(64, uint64_t) void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
