#pragma once
// A stack to run a function on, which the one OS thread of a launch switches to and from.

#include <cstddef>

namespace softmax_ext::simt::executor {

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  ~Fiber();

  // The next resume() calls entry(), which never returns. What ran here before is forgotten.
  void start(void (*entry)());
  void resume();   // returns when the fiber suspends itself
  void suspend();  // called on the fiber
  bool owns(const void* address) const;

 private:
  char* stack_ = nullptr;
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;  // of AddressSanitizer
};

}  // namespace softmax_ext::simt::executor
