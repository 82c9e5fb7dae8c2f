#include "tests/simt/fiber.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <new>

#if !defined(__x86_64__)
#error "softmax_ext: tests/simt/fiber.cpp switches stacks on x86-64 only"
#endif

// Leaves the callee-saved registers on one stack and takes them from another: 7 ns, where
// swapcontext with its system call takes 240.
extern "C" void softmax_ext_switch_stack(void** saved_stack_pointer, void* stack_pointer);
asm(R"(
  .text
softmax_ext_switch_stack:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
)");

// AddressSanitizer wants to know of a switch before and after it. Null in other builds.
extern "C" __attribute__((weak)) void __sanitizer_start_switch_fiber(
    void** fake_stack, const void* stack, std::size_t bytes);
extern "C" __attribute__((weak)) void __sanitizer_finish_switch_fiber(
    void* fake_stack, const void** old_stack, std::size_t* old_bytes);

namespace softmax_ext::simt::executor {
namespace {

constexpr std::size_t kBytes = 128 << 10;
constexpr std::size_t kGuardBytes = 4096;
constexpr int kSavedRegisters = 6;

void (*fiber_entry)() = nullptr;

// Of the stack that resume() was called on.
void* caller_stack_pointer = nullptr;
void* caller_fake_stack = nullptr;
const void* caller_stack = nullptr;
std::size_t caller_bytes = 0;

void begin() {
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(nullptr, &caller_stack, &caller_bytes);
  fiber_entry();
}

char* map_stack() {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const stack = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (stack == MAP_FAILED || mprotect(stack, kGuardBytes, PROT_NONE) != 0) throw std::bad_alloc();
  return static_cast<char*>(stack);
}

}  // namespace

Fiber::~Fiber() {
  if (stack_) munmap(stack_, kBytes);
}

void Fiber::start(void (*entry)()) {
  static std::size_t starts = 0;
  if (!stack_) stack_ = map_stack();
  ASAN_UNPOISON_MEMORY_REGION(stack_ + kGuardBytes, kBytes - kGuardBytes);
  fiber_entry = entry;
  // Staggered, as stacks that all end at the same place of a page compete for few sets of the cache.
  void** top = reinterpret_cast<void**>(stack_ + kBytes - starts++ % 32 * 128);
  *--top = nullptr;  // begin() has no caller
  *--top = reinterpret_cast<void*>(&begin);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  stack_pointer_ = top;
  fake_stack_ = nullptr;
}

void Fiber::resume() {
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&caller_fake_stack, stack_ + kGuardBytes, kBytes - kGuardBytes);
  softmax_ext_switch_stack(&caller_stack_pointer, stack_pointer_);
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(caller_fake_stack, nullptr, nullptr);
}

void Fiber::suspend() {
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&fake_stack_, caller_stack, caller_bytes);
  softmax_ext_switch_stack(&stack_pointer_, caller_stack_pointer);
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(fake_stack_, &caller_stack, &caller_bytes);
}

bool Fiber::owns(const void* address) const {
  return address >= stack_ && address < stack_ + kBytes;
}

}  // namespace softmax_ext::simt::executor
