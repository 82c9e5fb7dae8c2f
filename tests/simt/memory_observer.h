#pragma once
// What race.cpp offers to the executor and to buffer.h; absent where it is not linked.

#include <cstddef>
#include <cstdint>

namespace softmax_ext::simt {

// Bytes that kernels moved.
struct Traffic {
  int64_t read = 0;
  int64_t written = 0;
};

struct MemoryObserver {
  // Accesses to [base, base + bytes) are checked; those to the first `margin` bytes are errors.
  void (*add_global)(const void* base, std::size_t bytes, std::size_t margin);
  void (*add_shared)(const void* base, std::size_t bytes, int rank);
  void (*remove)(const void* base);
  void (*start_launch)();
  void (*exit_block)(int rank);
  Traffic& (*traffic)(const void* base);  // of global memory
  Traffic& (*traffic_of_last_launch)(const void* base);
};
inline const MemoryObserver* memory_observer = nullptr;

inline bool has_race_checker() { return memory_observer != nullptr; }

}  // namespace softmax_ext::simt
