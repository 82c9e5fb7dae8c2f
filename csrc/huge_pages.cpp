#include "csrc/huge_pages.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace softmax_ext {

void advise_huge_pages([[maybe_unused]] void* data, std::size_t bytes) {
  if (bytes < kHugePageBytes) return;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  static const bool is_wanted = [] {
    const char* const value = std::getenv("SOFTMAX_EXT_HUGE_PAGES");
    return value == nullptr || std::string_view(value) != "0";
  }();
  if (!is_wanted) return;
  // Only whole huge pages: what else lies beside them is not ours to advise on.
  constexpr std::uintptr_t kPage = std::uintptr_t{2} << 20;
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kPage * kPage;
  // Advice that the system does not take costs nothing but speed.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace softmax_ext
