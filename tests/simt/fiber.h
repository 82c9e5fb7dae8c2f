#pragma once
// A stack to run a function on, which the one OS thread of a launch switches to and from.

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <cstddef>
#include <new>

#if !defined(__x86_64__)
#error "softmax_ext: tests/simt/fiber.h switches stacks on x86-64 only"
#endif

// AddressSanitizer wants to know of a switch before and after it. Null in other builds.
#pragma weak __sanitizer_start_switch_fiber
#pragma weak __sanitizer_finish_switch_fiber

namespace softmax_ext::simt::executor {

void run_thread();  // what a fiber runs, without an end

struct Stack {
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  void* pointer = nullptr;
  void* fake_stack = nullptr;  // of AddressSanitizer
};

class Fiber {
 public:
  Fiber() {
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    memory_ = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0));
    if (memory_ == MAP_FAILED || mprotect(memory_, kGuardBytes, PROT_NONE)) throw std::bad_alloc();
    // Staggered, as stacks that all end at the same place of a page compete for few sets of the
    // cache. A switch takes the registers, begin(), and leaves the caller that begin() has not.
    void** const end = reinterpret_cast<void**>(memory_ + kBytes - fibers_++ % 32 * 128);
    end[-2] = reinterpret_cast<void*>(&begin);
    stack_ = {memory_ + kGuardBytes, kBytes - kGuardBytes, end - 2 - kSavedRegisters};
  }
  Fiber(const Fiber&) = delete;
  ~Fiber() {
    ASAN_UNPOISON_MEMORY_REGION(stack_.bottom, stack_.bytes);
    munmap(memory_, kBytes);
  }

  void resume() { switch_stacks(host_, stack_); }   // returns when the fiber suspends itself
  void suspend() { switch_stacks(stack_, host_); }  // called on the fiber
  bool owns(const void* address) const { return address >= memory_ && address < memory_ + kBytes; }

 private:
  static constexpr std::size_t kBytes = 128 << 10;
  static constexpr std::size_t kGuardBytes = 4096;
  static constexpr int kSavedRegisters = 6;

  // Returns when `to` switches back.
  static void switch_stacks(Stack& from, Stack& to) {
    if (__sanitizer_start_switch_fiber)
      __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
    switch_registers(&from.pointer, to.pointer);
    if (__sanitizer_finish_switch_fiber)
      __sanitizer_finish_switch_fiber(from.fake_stack, &to.bottom, &to.bytes);
  }

  // Leaves the callee-saved registers on one stack and takes them from another: 7 ns, where
  // swapcontext with its system call takes 240.
  [[gnu::naked, gnu::noipa]] static void switch_registers(void** /*saved*/, void* /*taken*/) {
    asm(R"(
      push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
      mov %rsp, (%rdi)
      mov %rsi, %rsp
      pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
      ret)");
  }

  static void begin() {
    if (__sanitizer_finish_switch_fiber)
      __sanitizer_finish_switch_fiber(nullptr, &host_.bottom, &host_.bytes);
    run_thread();
  }

  static inline Stack host_;
  static inline std::size_t fibers_ = 0;
  char* memory_;
  Stack stack_;
};

}  // namespace softmax_ext::simt::executor
