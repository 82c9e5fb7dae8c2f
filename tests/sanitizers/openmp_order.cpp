// For ThreadSanitizer: that what comes before a parallel region happens before all of it, and all of it before what comes
// after. The OpenMP runtime is not compiled for ThreadSanitizer, which therefore sees no order between a region's threads
// and would report all that they share. Preloaded; not itself checked.

#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

namespace {

struct Region {
  void (*body)(void*);
  void* data;
  char began;
  char ended;
};

void run(void* pointer) {
  auto* region = static_cast<Region*>(pointer);
  __tsan_acquire(&region->began);
  region->body(region->data);
  __tsan_release(&region->ended);
}

}  // namespace

// What GCC calls for `#pragma omp parallel`, in place of the runtime's own.
extern "C" __attribute__((visibility("default"))) void GOMP_parallel(
    void (*body)(void*), void* data, unsigned threads, unsigned flags) {
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  static const auto parallel = reinterpret_cast<Parallel>(dlsym(RTLD_NEXT, "GOMP_parallel"));
  Region region{body, data, 0, 0};
  __tsan_release(&region.began);
  parallel(run, &region, threads, flags);
  __tsan_acquire(&region.ended);
}
